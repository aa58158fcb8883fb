import { CountersignError } from "../lib/domain/errors.ts";
import type { KeyAlgorithm } from "../lib/domain/signing.ts";
import type { ChunkFailure, ChunkOrder, ChunkReport } from "./chunk-protocol.ts";
import type { Handle } from "./cryptoki.ts";
import type { SigningThread } from "./signing-thread.ts";

/** What a chunk needs of its key. */
export interface ChunkKey {
  readonly spki: Uint8Array;
  readonly keyAlgorithm: KeyAlgorithm;
  handleIn(epoch: number): Promise<Handle>;
  /** what is said of a signature that doesn't verify */
  wrongSignature(): CountersignError;
}

/** A signature that somebody waits for. */
export interface Wanted {
  readonly key: ChunkKey;
  readonly message: Uint8Array;
  readonly resolve: (signature: Uint8Array | Promise<Uint8Array>) => void;
  readonly reject: (error: unknown) => void;
}

/** Some signatures of one key on their way through the thread; each is answered once, or given back. */
export class Chunk<W extends Wanted> {
  readonly key: ChunkKey;
  readonly #thread: SigningThread;
  readonly #wanted: readonly W[];
  #answer: Promise<unknown> | undefined;
  #over = false;

  constructor(thread: SigningThread, wanted: readonly W[]) {
    this.#thread = thread;
    this.#wanted = wanted;
    this.key = wanted[0]!.key;
  }

  /** The thread's answer, once it has been asked. Never rejects. */
  get answer(): Promise<unknown> | undefined {
    return this.#answer;
  }

  /** @throws CountersignError `hsm-unavailable` when the thread ends */
  sign(order: Omit<ChunkOrder, "used">): Promise<ChunkReport> {
    const report = this.#thread.sign(
      this.#wanted.map(({ message }) => message),
      order,
    );
    this.#answer = report.catch(() => undefined);
    return report;
  }

  /**
   * Answers as many as were signed, and the one that failed.
   * @returns those after it, which the token wasn't asked for, and why that one failed; nothing once it is given up
   */
  settle({ done, failure }: ChunkReport): { left: readonly W[]; error?: Error } {
    if (this.#over) return { left: [] };
    this.#over = true;
    this.#release(done);
    if (failure === undefined) return { left: this.#wanted.slice(done) };
    const error = this.#errorOf(failure);
    this.#wanted[done]!.reject(error);
    return { left: this.#wanted.slice(done + 1), error };
  }

  /**
   * Nobody waits for it any more: the call under way hangs, or there never was one.
   * @returns of one that the thread still has, those that the token wasn't asked for
   */
  giveUp(why: unknown): readonly W[] | undefined {
    if (this.#over) return undefined;
    this.#over = true;
    if (this.#answer === undefined) {
      for (const { reject } of this.#wanted) reject(why);
      return undefined;
    }
    const done = this.#thread.stop();
    this.#release(done);
    this.#wanted[done]?.reject(why);
    return this.#wanted.slice(done + 1);
  }

  /** The thread has verified them before it counted them as done. */
  #release(done: number): void {
    for (let i = 0; i < done; i++) this.#wanted[i]!.resolve(this.#thread.signature(i));
  }

  #errorOf(failure: ChunkFailure): Error {
    if (failure === "wrong") return this.key.wrongSignature();
    const { message, code } = failure;
    return code === undefined ? new Error(message) : new CountersignError(code, message);
  }
}
