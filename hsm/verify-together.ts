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

/** As many as the certifying of a site with two cores has a use for. */
const THREADS = 2;
/** Checks a message: what it costs is spread over them, and both threads have some of a batch. */
const CHUNK = 32;
/** Fewer go by themselves: no thread is started for one CSR. */
const FEW = 4;
/** Key, message and signature of a check; a larger one (a CSR has 16 KiB at most) goes by itself. */
const MAX_CHECK_BYTES = 4096;
/** The lengths of the three beside them. */
const CAPACITY = CHUNK * (MAX_CHECK_BYTES + 64);

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
let threads: readonly CheckThread[] | undefined;
let scheduled = false;

/**
 * As `nodeVerify`, on threads, for keys that come once and many at a time: devices' own, under their CSRs. The bytes must
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
  if (waiting.length === 0) return;
  if (waiting.length >= FEW) threads ??= Array.from({ length: THREADS }, () => new CheckThread());
  const usable = threads?.filter((thread) => thread.usable) ?? [];
  // While they start, or if they are gone, libuv's do it.
  if (waiting.length < FEW || usable.length === 0) {
    for (const entry of waiting.splice(0)) alone(entry);
    return;
  }
  for (const thread of usable) {
    if (thread.busy || waiting.length === 0) continue;
    const some = waiting.splice(0, CHUNK);
    thread
      .check(some)
      .catch(() => some.forEach(alone))
      .finally(handOut);
  }
}

function alone({ check, resolve }: Entry): void {
  resolve(nodeVerifyOnceAside(check));
}
