import { CountersignError } from "../lib/domain/errors.ts";
import type { KeyAlgorithm } from "../lib/domain/signing.ts";
import { CK } from "./cryptoki.ts";
import { destroyKeyPair, generateKeyPair, type TokenKeyPair } from "./keys.ts";
import type { TokenLink } from "./token-link.ts";

/** RSA-4096 in software takes many seconds, and some HSMs are slower. */
const GENERATION_MS = 180_000;

/** Makes keys in one token, one at a time. */
export class KeyMaker {
  readonly #link: TokenLink;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(link: TokenLink) {
    this.#link = link;
  }

  /**
   * The label is counted before and after: another process may make the same one.
   * @throws CountersignError `hsm-key-exists`, `key-unsupported`, `hsm-unavailable`
   */
  make(label: string, algorithm: KeyAlgorithm): Promise<TokenKeyPair> {
    const made = this.#turn.then(() => this.#make(label, algorithm));
    this.#turn = made.catch(() => undefined);
    return made;
  }

  async #make(label: string, algorithm: KeyAlgorithm): Promise<TokenKeyPair> {
    const link = this.#link;
    if ((await link.count(label)) > 0) throw this.#exists(label);
    const { epoch } = link;
    const session = await link.open(CK.CKF_RW_SESSION);
    const pair = await inTime(this.#generate(session, epoch, label, algorithm), link.label);
    const found = await link.find({ label, id: pair.id });
    if (found !== undefined) return found;
    throw new CountersignError("hsm-key-missing", `token "${link.label}" made key "${label}" and doesn't find it`);
  }

  async #generate(session: Buffer, epoch: number, label: string, algorithm: KeyAlgorithm) {
    const link = this.#link;
    await link.module.enter();
    try {
      const { api } = link.module;
      const pair = await generateKeyPair(api, session, label, algorithm);
      if ((await link.count(label)) > 1) {
        destroyKeyPair(api, session, pair);
        throw this.#exists(label);
      }
      return pair;
    } finally {
      link.module.leave();
      link.close(session, epoch);
    }
  }

  #exists(label: string): CountersignError {
    return new CountersignError(
      "hsm-key-exists",
      `token "${this.#link.label}" already has a key "${label}": use it, or choose another label`,
      { details: { token: this.#link.label, key: label } },
    );
  }
}

async function inTime<T>(work: Promise<T>, token: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => {
      const message = `token "${token}" didn't make a key within ${GENERATION_MS / 1000} s: check the HSM`;
      reject(new CountersignError("hsm-unavailable", message, { details: { token, timeout: true } }));
    }, GENERATION_MS);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}
