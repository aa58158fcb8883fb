import { equalBytes } from "../lib/domain/bytes.ts";
import { CountersignError } from "../lib/domain/errors.ts";
import type { KeyAlgorithm, SignatureAlgorithm, Signer } from "../lib/domain/signing.ts";
import { signatureAlgorithmForKey } from "../lib/pki/algorithms.ts";
import { breathe } from "./breathe.ts";
import type { ChunkKey } from "./chunk.ts";
import type { ChunkSigner } from "./chunk-signer.ts";
import type { Handle } from "./cryptoki.ts";
import { isSessionLost } from "./errors.ts";
import type { HsmGuard } from "./guard.ts";
import type { TokenKeyPair } from "./keys.ts";
import type { SessionPool } from "./session-pool.ts";
import { SIGNING_SCHEMES, type SigningScheme } from "./signing-scheme.ts";
import type { TokenLink } from "./token-link.ts";
import { nodeVerifyAside } from "./verify.ts";

/** What a key needs of its token. */
export interface KeyHome {
  readonly link: TokenLink;
  readonly guard: HsmGuard;
  readonly pool: SessionPool;
  readonly chunks: ChunkSigner;
}

/**
 * Signs with one key of a token, any number of calls at once: they share the token's sessions. Stays inside this room;
 * callers get a `Signer` or a `CaKey`, by the key's role.
 */
export class TokenKey implements Signer, ChunkKey {
  readonly spki: Uint8Array;
  readonly algorithm: SignatureAlgorithm;
  readonly keyAlgorithm: KeyAlgorithm;
  readonly label: string;
  readonly #home: KeyHome;
  readonly #scheme: SigningScheme;
  readonly #id: Uint8Array;
  #handle: { epoch: number; found: Promise<Handle> };

  /** @param epoch of the link, in which the pair's handles were found */
  constructor(home: KeyHome, pair: TokenKeyPair, epoch: number) {
    this.#home = home;
    this.#scheme = SIGNING_SCHEMES[pair.algorithm];
    this.#id = pair.id;
    this.#handle = { epoch, found: Promise.resolve(pair.privateKey) };
    this.spki = pair.spki;
    this.keyAlgorithm = pair.algorithm;
    this.algorithm = signatureAlgorithmForKey(pair.algorithm);
    this.label = pair.label;
  }

  /**
   * Gives a verified signature or an error, within the limits of the token; never a signature that doesn't verify.
   * @throws CountersignError `hsm-unavailable` (out of reach, too slow, queue full), `hsm-token-missing`,
   * `hsm-key-missing`, `hsm-pin-wrong`, `hsm-pin-locked`, `hsm-signature-invalid`
   */
  sign(message: Uint8Array): Promise<Uint8Array> {
    return this.#home.guard.run({ doing: "sign", key: this.label }, () => this.#attempt(message));
  }

  /**
   * As `sign`, for many messages asked for in one turn of the event loop, each answered by itself. They must not change
   * meanwhile.
   */
  signTogether(message: Uint8Array): Promise<Uint8Array> {
    const { guard, chunks } = this.#home;
    return guard.run({ doing: "sign", key: this.label }, () =>
      chunks.sign(this, message, () => this.#attempt(message)),
    );
  }

  async #attempt(message: Uint8Array): Promise<Uint8Array> {
    const signature = await this.#once(this.#scheme.prepare(message));
    // A token, a driver or a moved buffer that signs something else is caught here: nothing unverified gets out.
    if (await nodeVerifyAside({ spki: this.spki, algorithm: this.algorithm, message, signature })) return signature;
    this.#home.link.lost(this.#home.link.epoch);
    throw this.wrongSignature();
  }

  async #once(input: Uint8Array): Promise<Uint8Array> {
    const { pool, link } = this.#home;
    return pool.use(async (session) => {
      await breathe();
      const key = await this.handleIn(session.epoch);
      await link.module.enter();
      try {
        // While the key was looked up, or the module restarted, the session may have been given up.
        if (session.retired || session.epoch !== link.epoch) throw new Error("CKR_SESSION_CLOSED");
        const data = session.load(input);
        link.module.api.C_SignInit(session.handle, { mechanism: this.#scheme.mechanism }, key);
        // The promise form only: the callback form loses its buffers to the collector.
        return this.#scheme.finish(await link.module.api.C_SignAsync(session.handle, data, session.output));
      } catch (error) {
        if (isSessionLost(error)) link.lost(session.epoch);
        throw error;
      } finally {
        link.module.leave();
      }
    });
  }

  /** The private key's handle, looked up anew, by its CKA_ID, after each reconnection. */
  handleIn(epoch: number): Promise<Handle> {
    if (this.#handle.epoch !== epoch) {
      const found = this.#find();
      const handle = { epoch, found };
      this.#handle = handle;
      // The next one to sign looks again.
      found.catch(() => {
        if (this.#handle === handle) this.#handle = { epoch: -1, found };
      });
    }
    return this.#handle.found;
  }

  async #find(): Promise<Handle> {
    const { link } = this.#home;
    const name = { label: this.label, ...(this.#id.length === 0 ? {} : { id: this.#id }) };
    const pair = await link.find(name);
    const details = { token: link.label, key: this.label };
    if (pair === undefined) {
      throw new CountersignError(
        "hsm-key-missing",
        `token "${link.label}" no longer holds key "${this.label}": restore the token, or start again with another key`,
        { details },
      );
    }
    if (!equalBytes(pair.spki, this.spki)) {
      throw new CountersignError(
        "hsm-key-missing",
        `key "${this.label}" in token "${link.label}" was replaced by another of the same name: nothing is signed with it`,
        { details },
      );
    }
    return pair.privateKey;
  }

  wrongSignature(): CountersignError {
    const { label } = this.#home.link;
    return new CountersignError(
      "hsm-signature-invalid",
      `key "${this.label}" in token "${label}" gave a signature that its public key doesn't verify: ` +
        "nothing was released; check that the token's public and private key objects belong together",
      { details: { token: label, key: this.label } },
    );
  }
}
