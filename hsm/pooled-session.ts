import type { Handle } from "./cryptoki.ts";

const INPUT_BYTES = 4096;
/** The longest signature any key here gives is RSA-4096's 512 bytes. */
const OUTPUT_BYTES = 1024;

/**
 * One PKCS#11 session with its own buffers. pkcs11js hands raw pointers to another thread and doesn't hold the buffers
 * (its issue 121): one that the collector moves or frees meanwhile makes the token sign something else. Hence buffers
 * that live as long as the session, one operation a session at a time, and `pin` below.
 */
export class PooledSession {
  readonly handle: Handle;
  /** the epoch of its source in which it was opened */
  readonly epoch: number;
  readonly output: Buffer = Buffer.alloc(OUTPUT_BYTES);
  /** failed or given up: nothing more is asked of it */
  retired = false;
  #input: Buffer = Buffer.alloc(INPUT_BYTES);

  constructor(handle: Handle, epoch: number) {
    this.handle = handle;
    this.epoch = epoch;
  }

  /** Copies `bytes` into this session's input buffer and returns the view of it to pass to the token. */
  load(bytes: Uint8Array): Buffer {
    if (bytes.length > this.#input.length) this.#input = Buffer.alloc(bytes.length);
    this.#input.set(bytes);
    return this.#input.subarray(0, bytes.length);
  }
}

/**
 * Sessions at work, reachable from the module itself: no collector takes a session while the token writes into it, even
 * when everyone who waited for it has given up.
 */
const inFlight = new Set<PooledSession>();

export function pin(session: PooledSession): void {
  inFlight.add(session);
}

export function unpin(session: PooledSession): void {
  inFlight.delete(session);
}

/** For tests of the above. */
export const pinnedCount = (): number => inFlight.size;
