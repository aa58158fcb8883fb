import { type Answer, type Work } from "./connector-protocol.ts";
import type { TokenKeyPair } from "./keys.ts";
import { Thread } from "./thread.ts";
import type { Opened } from "./token-access.ts";

/** One of the connector's threads, which can be given up with all that it has been asked. */
export class Pkcs11Thread {
  readonly #thread: Thread<Work, Answer>;
  readonly #abandoned = new Int32Array(new SharedArrayBuffer(4));

  constructor(path: string) {
    this.#thread = new Thread(new URL("./connector-thread.ts", import.meta.url), {
      name: "pkcs11",
      does: `reaches PKCS#11 module ${path}`,
      data: { path, abandoned: this.#abandoned },
    });
  }

  /** Settles when it takes work. */
  get ready(): Promise<void> {
    return this.#thread.ready;
  }

  async ask(work: Work): Promise<Answer> {
    return restored(await this.#thread.ask(work));
  }

  abandon(): void {
    Atomics.store(this.#abandoned, 0, 1);
  }

  end(): Promise<void> {
    return this.#thread.end();
  }
}

/** Structured cloning makes plain Uint8Arrays of handles, which pkcs11js doesn't take. */
function restored(answer: Answer): Answer {
  if (answer.error !== undefined) return answer;
  const { value } = answer;
  if (typeof value !== "object" || value === null) return answer;
  if ("session" in value) {
    const { session, slot } = value as Opened;
    return { value: { session: Buffer.from(session), slot: { ...slot, slot: Buffer.from(slot.slot) } } };
  }
  const pair = value as TokenKeyPair;
  const handles = { privateKey: Buffer.from(pair.privateKey), publicKey: Buffer.from(pair.publicKey) };
  return { value: { ...pair, ...handles } };
}
