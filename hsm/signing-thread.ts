import { SharedBytes } from "./shared-bytes.ts";
import {
  CHUNK,
  type ChunkOrder,
  type ChunkReport,
  DONE,
  MAX_MESSAGE_BYTES,
  SLOT_BYTES,
  STOP,
  type ThreadData,
} from "./chunk-protocol.ts";
import { Thread } from "./thread.ts";

/** This side of the thread that signs chunks (chunk-thread.ts). */
export class SigningThread {
  readonly #messages = new SharedBytes(CHUNK * (MAX_MESSAGE_BYTES + 4));
  readonly #signatures = new SharedArrayBuffer(CHUNK * SLOT_BYTES);
  readonly #control = new SharedArrayBuffer(8);
  readonly #state = new Int32Array(this.#control);
  readonly #thread: Thread<ChunkOrder, ChunkReport>;

  /** @param path of the PKCS#11 module */
  constructor(path: string) {
    this.#thread = new Thread(new URL("./chunk-thread.ts", import.meta.url), {
      name: "sign",
      does: `signs through PKCS#11 module ${path}`,
      data: {
        path,
        messages: this.#messages.memory,
        signatures: this.#signatures,
        control: this.#control,
      } satisfies ThreadData,
    });
  }

  get usable(): boolean {
    return this.#thread.usable;
  }

  /**
   * Signs messages in their order, as many as it comes to. Whoever waits keeps the process alive.
   * @throws CountersignError `hsm-unavailable` when the thread ends; what it has done until then still counts
   */
  sign(messages: readonly Uint8Array[], order: Omit<ChunkOrder, "used">): Promise<ChunkReport> {
    this.#messages.clear();
    for (const message of messages) this.#messages.add(message);
    Atomics.store(this.#state, DONE, 0);
    return this.#thread.ask({ ...order, used: this.#messages.used });
  }

  /** One of those done. */
  signature(index: number): Uint8Array {
    const length = new DataView(this.#signatures, index * SLOT_BYTES).getUint16(0);
    return new Uint8Array(this.#signatures, index * SLOT_BYTES + 2, length).slice();
  }

  /**
   * It begins no further signature. For a thread that hangs: it isn't asked again.
   * @returns how many are done; the next one is under way
   */
  stop(): number {
    Atomics.store(this.#state, STOP, 1);
    return Atomics.load(this.#state, DONE);
  }

  end(): Promise<void> {
    return this.#thread.end();
  }
}
