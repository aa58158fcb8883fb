import type { VerifySignature } from "../lib/domain/signing.ts";
import { SharedBytes } from "./shared-bytes.ts";
import { Thread } from "./thread.ts";
import { nodeVerifyOnceAside } from "./verify.ts";
import type { Checks } from "./verify-thread.ts";

/**
 * Checks that are asked for in one turn of the event loop go to a thread as one message, which checks them one after the
 * other: by itself, each costs as much again as a third of its check, for waking a thread and hearing from it.
 */

type Check = Parameters<VerifySignature>[0];

interface Entry {
  readonly check: Check;
  readonly resolve: (valid: boolean | Promise<boolean>) => void;
}

/** Checks a message: what it costs is spread over them. */
const CHUNK = 64;
/** Fewer go by themselves: no thread is started for one CSR. */
const FEW = 4;
/** Key, message and signature of a check; a larger one (a CSR has 16 KiB at most) goes by itself. */
const MAX_CHECK_BYTES = 4096;
/** The lengths of the three beside them. */
const CAPACITY = CHUNK * (MAX_CHECK_BYTES + 64);

/** One is enough: it checks some 10,000 a second, several times what is certified for them by one process. */
class CheckThread {
  readonly #chunk = new SharedBytes(CAPACITY);
  readonly #thread = new Thread<Checks, boolean[]>(new URL("./verify-thread.ts", import.meta.url), {
    name: "verify",
    does: "checks signatures",
    data: this.#chunk.memory,
  });
  busy = false;

  get usable(): boolean {
    return this.#thread.usable;
  }

  /** @throws CountersignError `hsm-unavailable` when the thread ends */
  async check(entries: readonly Entry[]): Promise<void> {
    this.#chunk.clear();
    for (const { check } of entries) {
      this.#chunk.add(check.spki);
      this.#chunk.add(check.message);
      this.#chunk.add(check.signature);
    }
    this.busy = true;
    this.#thread.hold(true);
    try {
      const algorithms = entries.map(({ check }) => check.algorithm);
      const valid = await this.#thread.ask({ algorithms, used: this.#chunk.used });
      for (const [i, { resolve }] of entries.entries()) resolve(valid[i] === true);
    } finally {
      this.#thread.hold(false);
      this.busy = false;
    }
  }
}

const waiting: Entry[] = [];
let thread: CheckThread | undefined;
let scheduled = false;

/**
 * As `nodeVerify`, on a thread, for keys that come once and many at a time: devices' own, under their CSRs. The bytes must
 * not change until it is answered.
 */
export function verifyTogether(check: Check): Promise<boolean> {
  if (check.spki.length + check.message.length + check.signature.length > MAX_CHECK_BYTES) {
    return nodeVerifyOnceAside(check);
  }
  return new Promise((resolve) => {
    waiting.push({ check, resolve });
    if (scheduled) return;
    scheduled = true;
    setImmediate(() => {
      scheduled = false;
      handOut();
    });
  });
}

function handOut(): void {
  if (waiting.length >= FEW) thread ??= new CheckThread();
  // What came meanwhile goes on as soon as its chunk is back.
  if (thread?.busy === true) return;
  if (waiting.length < FEW || thread?.usable !== true) {
    // While it starts, or if it is gone, libuv's do it.
    for (const { check, resolve } of waiting.splice(0)) resolve(nodeVerifyOnceAside(check));
    return;
  }
  const some = waiting.splice(0, CHUNK);
  thread
    .check(some)
    .catch(() => some.forEach(({ check, resolve }) => resolve(nodeVerifyOnceAside(check))))
    .finally(handOut);
}
