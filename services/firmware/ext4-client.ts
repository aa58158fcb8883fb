import { Worker } from "node:worker_threads";
import { CountersignError } from "../../lib/domain/errors.ts";
import type { RangeReader } from "../../lib/firmware/index.ts";
import type { FromThread, Request, Results, ToThread, Work } from "./ext4-protocol.ts";

/** Far longer than any image takes; a hang is ended with its thread. */
const TIMEOUT_MS = 30_000;

let thread: Worker | undefined;
let turn: Promise<unknown> = Promise.resolve();

/**
 * One piece of work on the file system in `reader`, one after the other: the library has one state for all.
 * @param clock seconds since 1970, which files made now are dated with
 * @returns undefined where the file system is full
 * @throws CountersignError `image-invalid` for a file system that the library refuses, fails or hangs on
 */
export function withFileSystem<W extends Work>(
  reader: RangeReader,
  clock: number,
  work: W,
): Promise<Results[W["op"]] | undefined> {
  const done = turn.then(() => run(reader, { work, size: reader.size, clock }));
  turn = done.catch(() => undefined);
  return done as Promise<Results[W["op"]] | undefined>;
}

async function run(reader: RangeReader, request: Request): Promise<Results[Work["op"]] | undefined> {
  const worker = (thread ??= newThread());
  worker.ref();
  try {
    return await new Promise((resolve, reject) => {
      /** After a failure the library's state can't be trusted any more: the next image gets a new thread. */
      const end = (settle: () => void, broken = false) => {
        clearTimeout(timer);
        worker.removeAllListeners("message").removeAllListeners("error").removeAllListeners("exit");
        if (broken) {
          thread = undefined;
          void worker.terminate();
        }
        settle();
      };
      const fail = (why: string) => end(() => reject(invalid(why)), true);
      const timer = setTimeout(() => fail(`it isn't done after ${TIMEOUT_MS / 1000} s`), TIMEOUT_MS);
      worker.on("message", (message: FromThread) => {
        if ("read" in message) return void reply(worker, reader, message.read);
        if ("value" in message) return end(() => resolve(message.value));
        const { full, message: why } = message.failed;
        if (full) return end(() => resolve(undefined), true);
        fail(why);
      });
      worker.on("error", (error) => fail(error.message));
      worker.on("exit", () => fail("its thread ended"));
      worker.postMessage(request satisfies ToThread);
    });
  } finally {
    worker.unref();
  }
}

async function reply(worker: Worker, reader: RangeReader, { offset, length }: { offset: number; length: number }) {
  try {
    const bytes = (await reader.read(offset, length)).slice();
    worker.postMessage({ bytes } satisfies ToThread, [bytes.buffer]);
  } catch (error) {
    worker.postMessage({ unreadable: error instanceof Error ? error.message : String(error) } satisfies ToThread);
  }
}

function newThread(): Worker {
  return new Worker(new URL("ext4-thread.ts", import.meta.url));
}

function invalid(why: string): CountersignError {
  return new CountersignError("image-invalid", `the ext4 file system can't be used: ${why}; check it with e2fsck -fn`);
}
