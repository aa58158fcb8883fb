import { createHash } from "node:crypto";
import { equalBytes } from "../lib/domain/bytes.ts";
import { CountersignError } from "../lib/domain/errors.ts";
import type { KeyAlgorithm, SignatureAlgorithm, Signer } from "../lib/domain/signing.ts";
import { signatureAlgorithmForKey } from "../lib/pki/algorithms.ts";
import { CK } from "./cryptoki.ts";
import { ecdsaSignatureDer } from "./ecdsa.ts";
import { hsmError, isSessionLost } from "./errors.ts";
import type { TokenKeyPair } from "./keys.ts";
import type { Pkcs11Module } from "./module.ts";
import type { SessionPool } from "./session-pool.ts";
import { nodeVerify } from "./verify.ts";

interface Scheme {
  mechanism: number;
  /** What the token is handed for a message: tokens only do the raw operation on it. */
  prepare: (message: Uint8Array) => Uint8Array;
  /** The signature as everyone else writes it. */
  finish: (raw: Uint8Array) => Uint8Array;
}

/** DigestInfo up to the SHA-256 value (RFC 8017 section 9.2, note 1). */
const SHA256_DIGEST_INFO = Buffer.from("3031300d060960864801650304020105000420", "hex");

const sha256 = (message: Uint8Array): Buffer => createHash("sha256").update(message).digest();
const copy = (raw: Uint8Array): Uint8Array => new Uint8Array(raw);
const RSA: Scheme = {
  mechanism: CK.CKM_RSA_PKCS,
  prepare: (message) => Buffer.concat([SHA256_DIGEST_INFO, sha256(message)]),
  finish: copy,
};
const SCHEMES: Readonly<Record<KeyAlgorithm, Scheme>> = {
  "ec-p256": { mechanism: CK.CKM_ECDSA, prepare: sha256, finish: (raw) => ecdsaSignatureDer(raw, 32) },
  "ec-p384": {
    mechanism: CK.CKM_ECDSA,
    prepare: (message) => createHash("sha384").update(message).digest(),
    finish: (raw) => ecdsaSignatureDer(raw, 48),
  },
  ed25519: { mechanism: CK.CKM_EDDSA, prepare: (message) => message, finish: copy },
  "rsa-2048": RSA,
  "rsa-3072": RSA,
  "rsa-4096": RSA,
};

/** The second may still fall into the moment in which others find out and the process is logged out; no more than that. */
const ATTEMPTS = 3;

/** What a key needs of its token. */
export interface KeyHome {
  readonly label: string;
  readonly module: Pkcs11Module;
  readonly pool: SessionPool;
  /** Looks the same key up again, after its handles were lost. */
  refind(pair: TokenKeyPair): Promise<TokenKeyPair>;
}

/**
 * Signs with one key of a token, any number of calls at once: they share the token's sessions. Stays inside this room;
 * callers get a `Signer` or a `CaKey`, by the key's role.
 */
export class TokenKey implements Signer {
  readonly spki: Uint8Array;
  readonly algorithm: SignatureAlgorithm;
  readonly label: string;
  readonly #home: KeyHome;
  readonly #scheme: Scheme;
  #pair: TokenKeyPair;

  constructor(home: KeyHome, pair: TokenKeyPair) {
    this.#home = home;
    this.#pair = pair;
    this.#scheme = SCHEMES[pair.algorithm];
    this.spki = pair.spki;
    this.algorithm = signatureAlgorithmForKey(pair.algorithm);
    this.label = pair.label;
  }

  /** @throws CountersignError `hsm-signature-invalid`, `hsm-unavailable`, `hsm-key-missing` and what re-login throws */
  async sign(message: Uint8Array): Promise<Uint8Array> {
    const signature = await this.#attempt(this.#scheme.prepare(message));
    // A token, a driver or a moved buffer that signs something else is caught here: nothing unverified gets out.
    if (!nodeVerify({ spki: this.spki, algorithm: this.algorithm, message, signature })) {
      throw new CountersignError(
        "hsm-signature-invalid",
        `key "${this.label}" in token "${this.#home.label}" gave a signature that its public key doesn't verify: ` +
          "nothing was released; check that the token's public and private key objects belong together",
        { details: { token: this.#home.label, key: this.label } },
      );
    }
    return signature;
  }

  /** Attempts again when session or handles were lost: a second signature of the same bytes does no harm. */
  async #attempt(input: Uint8Array): Promise<Uint8Array> {
    for (let left = ATTEMPTS - 1; ; left--) {
      try {
        return await this.#once(input);
      } catch (error) {
        const context = { doing: "sign", token: this.#home.label, key: this.label };
        if (left === 0 || !isSessionLost(error)) throw hsmError(error, context);
        this.#home.pool.renewIdle();
        await this.#refind();
      }
    }
  }

  async #refind(): Promise<void> {
    const found = await this.#home.refind(this.#pair);
    if (!equalBytes(found.spki, this.spki)) {
      throw new CountersignError("hsm-key-missing", `key "${this.label}" was replaced by another of the same name`);
    }
    this.#pair = found;
  }

  async #once(input: Uint8Array): Promise<Uint8Array> {
    const { api } = this.#home.module;
    return this.#home.pool.use(async (session) => {
      const data = session.load(input);
      api.C_SignInit(session.handle, { mechanism: this.#scheme.mechanism }, this.#pair.privateKey);
      // The promise form only: the callback form loses its buffers to the collector.
      return this.#scheme.finish(await api.C_SignAsync(session.handle, data, session.output));
    });
  }
}
