import { CountersignError } from "../lib/domain/errors.ts";

/**
 * Sessions and threads. A signature holds one of libuv's threads while the HSM works on it, so sessions beyond
 * UV_THREADPOOL_SIZE only wait, and a hung HSM that holds every thread stops files and name look-ups with it. libuv
 * reads the variable once, when the process first uses a thread: it is set before the process starts, or not at all.
 */

/** For files, DNS and key generation. */
export const RESERVED_THREADS = 4;
const LIBUV_DEFAULT = 4;
const LIBUV_MAX = 1024;

const atStart = process.env["UV_THREADPOOL_SIZE"];

/** Threads of this process, as libuv reads UV_THREADPOOL_SIZE. */
export function threadPoolSize(setting = atStart): number {
  if (setting === undefined) return LIBUV_DEFAULT;
  const size = Number.parseInt(setting, 10);
  return Math.min(Number.isNaN(size) || size < 1 ? 1 : size, LIBUV_MAX);
}

/**
 * What UV_THREADPOOL_SIZE should be for so many sessions (of all tokens of a process together): a thread each, as many
 * again to go on with while a hung HSM holds the first, and those reserved.
 */
export function threadsForSessions(sessions: number): number {
  return Math.min(2 * sessions + RESERVED_THREADS, LIBUV_MAX);
}

let sessionsOpen = 0;
let abandoned = 0;

/** Sessions of all open tokens of this process. */
export const sessionCount = (): number => sessionsOpen;

export function addSessions(count: number): void {
  sessionsOpen += count;
}

/**
 * @param more sessions about to be opened beside those that are
 * @throws CountersignError `input-invalid` when the threads don't suffice
 */
export function assertThreadsFor(more: number, size = threadPoolSize()): void {
  const needed = sessionsOpen + more;
  if (needed <= size) return;
  throw new CountersignError(
    "input-invalid",
    `${needed} HSM sessions need ${needed} threads and this process has ${size}: start it with ` +
      `UV_THREADPOOL_SIZE=${threadsForSessions(needed)}, or configure fewer sessions`,
    { details: { sessions: needed, threads: size } },
  );
}

/**
 * A call that hangs keeps its thread. Whether another thread may be put in its place; give it back when the call
 * returns.
 */
export function takeSpareThread(): boolean {
  if (sessionsOpen + abandoned + RESERVED_THREADS >= threadPoolSize()) return false;
  abandoned++;
  return true;
}

export function giveSpareThread(): void {
  abandoned--;
}
