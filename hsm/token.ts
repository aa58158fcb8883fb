import { CountersignError } from "../lib/domain/errors.ts";
import type { KeyAlgorithm, Signer } from "../lib/domain/signing.ts";
import { Breaker, type BreakerState } from "./breaker.ts";
import { TokenCaKey, type CaKey } from "./ca-key.ts";
import { ChunkSigner } from "./chunk-signer.ts";
import { HsmGuard } from "./guard.ts";
import { ImageKey } from "./image-key.ts";
import { KeyMaker } from "./key-maker.ts";
import { assertKeyLabel, assertRole } from "./key-role.ts";
import { type KeyName, type TokenKeyPair, showKeyName } from "./keys.ts";
import { type HsmLimits, limitsOf } from "./limits.ts";
import { loadModule } from "./module.ts";
import type { PinSource } from "./pin.ts";
import { SessionPool } from "./session-pool.ts";
import type { PoolState } from "./session-source.ts";
import { TokenKey } from "./signer.ts";
import { TokenLink } from "./token-link.ts";
import { parsePkcs11Uri } from "./uri.ts";

/** One token of a site. Safe to write into a configuration file: it holds no secret. */
export interface TokenConfig {
  /** absolute path of the PKCS#11 module */
  module: string;
  /** RFC 7512, naming one token: "pkcs11:token=factory-y" */
  uri: string;
  pin: PinSource;
  /** sessions to sign on, default 4; UV_THREADPOOL_SIZE must be at least as large for all of them to work at once */
  sessions?: number;
  limits?: Partial<HsmLimits>;
}

/** How a token does, for readiness and metrics. Holds no secret. */
export interface TokenHealth {
  token: string;
  /** `open`: out of order, nobody asks it; `half-open`: being tried */
  circuit: BreakerState;
  sessions: PoolState;
  /** failures since the last success */
  failures: number;
  /** attempts beyond the first ones, since this token was opened */
  repeats: number;
  openSince: Date | undefined;
  lastError: { code: string; message: string; at: Date } | undefined;
}

const DEFAULT_SESSIONS = 4;

/**
 * Opens a token and logs in. The login is the process's: while it lasts, another `openToken` of the same token isn't
 * asked for its PIN by the token.
 * @throws CountersignError `input-invalid`, `hsm-unavailable`, `hsm-token-missing`, `hsm-pin-wrong`, `hsm-pin-locked`
 */
export async function openToken(config: TokenConfig): Promise<Token> {
  const uri = parsePkcs11Uri(config.uri);
  const surplus = (["object", "id", "type", "pinSource", "modulePath"] as const).find(
    (field) => uri[field] !== undefined,
  );
  if (surplus !== undefined) {
    throw new CountersignError(
      "input-invalid",
      `the URI of a token names only the token: take "${surplus}" out; module and PIN file have fields of their own`,
    );
  }
  const limits = limitsOf(config.limits);
  const link = new TokenLink(loadModule(config.module), config.uri, config.pin, limits);
  link.module.retain();
  try {
    return new Token(link, await SessionPool.open(link, config.sessions ?? DEFAULT_SESSIONS, limits), limits);
  } catch (error) {
    await link.closed();
    link.module.release();
    throw error;
  }
}

/**
 * A logged-in token. Keys made or found through it keep working until `close`, whatever happens to the HSM meanwhile:
 * while it is out of reach every call is answered with an error that says so, afterwards with a signature again.
 */
export class Token {
  readonly label: string;
  readonly serial: string;
  // Private at run time too: whoever had the pool or the module could sign anything with a CA's key.
  readonly #link: TokenLink;
  readonly #pool: SessionPool;
  readonly #breaker: Breaker;
  readonly #guard: HsmGuard;
  readonly #chunks: ChunkSigner;
  readonly #maker: KeyMaker;
  #closed: Promise<void> | undefined;

  /** Use `openToken`. */
  constructor(link: TokenLink, pool: SessionPool, limits: HsmLimits) {
    this.label = link.label;
    this.serial = link.serial;
    this.#link = link;
    this.#pool = pool;
    this.#chunks = new ChunkSigner(link, pool, limits);
    this.#breaker = new Breaker(this.label, limits, (why) => {
      this.#chunks.refuseWaiting(why);
      pool.refuseWaiting(why);
    });
    this.#guard = new HsmGuard(link, this.#breaker);
    this.#maker = new KeyMaker(link);
  }

  /**
   * A key that signs anything, by label or by URI (`pkcs11:object=act`, `pkcs11:id=%01%02`).
   * @throws CountersignError `hsm-key-missing`; `unauthorized` for a CA's or an image-signing key
   */
  async signer(key: string): Promise<Signer> {
    const [pair, epoch] = await this.#find(this.#keyName(key));
    assertRole(pair.label, "signing");
    return this.#key(pair, epoch);
  }

  /**
   * A key that signs only linted certificates and CRLs.
   * @throws CountersignError `hsm-key-missing`; `unauthorized` for a key that isn't labelled as a CA's
   */
  async caKey(key: string): Promise<CaKey> {
    const [pair, epoch] = await this.#find(this.#keyName(key));
    assertRole(pair.label, "ca");
    return new TokenCaKey(this.#key(pair, epoch));
  }

  /**
   * A key that signs only firmware images.
   * @throws CountersignError `hsm-key-missing`; `unauthorized` for a key that isn't labelled as one
   */
  async imageKey(key: string): Promise<ImageKey> {
    const [pair, epoch] = await this.#find(this.#keyName(key));
    assertRole(pair.label, "image");
    return new ImageKey(this.#key(pair, epoch));
  }

  /** @throws CountersignError `hsm-key-exists`, `key-unsupported`; `unauthorized` for the label of another role */
  async generateKey(request: { label: string; algorithm: KeyAlgorithm }): Promise<Signer> {
    assertRole(assertKeyLabel(request.label), "signing");
    return this.#generate(request);
  }

  /** @throws CountersignError `hsm-key-exists`, `key-unsupported`; `unauthorized` for a label that isn't a CA's */
  async generateCaKey(request: { label: string; algorithm: KeyAlgorithm }): Promise<CaKey> {
    assertRole(assertKeyLabel(request.label), "ca");
    return new TokenCaKey(await this.#generate(request));
  }

  /** @throws CountersignError `hsm-key-exists`, `key-unsupported`; `unauthorized` for a label that isn't an image key's */
  async generateImageKey(request: { label: string; algorithm: KeyAlgorithm }): Promise<ImageKey> {
    assertRole(assertKeyLabel(request.label), "image");
    return new ImageKey(await this.#generate(request));
  }

  /** Asks the token itself. @throws CountersignError what keeps it from answering */
  async hasKey(label: string): Promise<boolean> {
    return (await this.#lookUp({ label })) !== undefined;
  }

  health(): TokenHealth {
    const { state: circuit, failures, openSince, lastError } = this.#breaker;
    return {
      token: this.label,
      circuit,
      sessions: { ...this.#pool.state, waiting: this.#pool.state.waiting + this.#chunks.waiting },
      failures,
      repeats: this.#guard.repeats,
      openSince,
      lastError,
    };
  }

  /** Waits for signatures under way, then closes this object's sessions; the last one of the process logs out. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    this.#chunks.close();
    await this.#pool.close();
    await this.#chunks.end();
    await this.#link.closed();
    this.#link.module.release();
  }

  #keyName(key: string): KeyName {
    if (!/^pkcs11:/i.test(key)) return { label: assertKeyLabel(key) };
    const { object, id, type, ...rest } = parsePkcs11Uri(key);
    if (object === undefined && id === undefined) {
      throw new CountersignError("input-invalid", "the URI of a key has object= (its label) or id=");
    }
    if ((type ?? "private") !== "private") {
      throw new CountersignError("input-invalid", `the URI of a signing key says type=private, not type=${type}`);
    }
    if ((rest.token ?? this.label) !== this.label || (rest.serial ?? this.serial) !== this.serial) {
      throw new CountersignError("input-invalid", `the key's URI names another token than "${this.label}"`);
    }
    return { ...(object === undefined ? {} : { label: object }), ...(id === undefined ? {} : { id }) };
  }

  /** With the epoch in which its handles were found. */
  async #find(name: KeyName): Promise<[TokenKeyPair, number]> {
    const { epoch } = this.#link;
    const pair = await this.#lookUp(name);
    if (pair !== undefined) return [pair, epoch];
    throw new CountersignError(
      "hsm-key-missing",
      `token "${this.label}" has no private key "${showKeyName(name)}": make it, or correct the key's name`,
      { details: { token: this.label, key: showKeyName(name) } },
    );
  }

  async #lookUp(name: KeyName): Promise<TokenKeyPair | undefined> {
    this.#assertOpen();
    return this.#guard.run({ doing: "look up a key", key: showKeyName(name) }, () => this.#link.find(name));
  }

  async #generate({ label, algorithm }: { label: string; algorithm: KeyAlgorithm }): Promise<TokenKey> {
    this.#assertOpen();
    const { epoch } = this.#link;
    const context = { doing: "make a key", key: label };
    // A second attempt finds the first one's key and says so, rather than making two.
    const pair = await this.#guard.run(context, () => this.#maker.make(label, algorithm));
    return this.#key(pair, epoch);
  }

  #key(pair: TokenKeyPair, epoch: number): TokenKey {
    return new TokenKey({ link: this.#link, guard: this.#guard, pool: this.#pool, chunks: this.#chunks }, pair, epoch);
  }

  #assertOpen(): void {
    if (this.#closed === undefined) return;
    throw new CountersignError("hsm-unavailable", `token "${this.label}" was closed`);
  }
}
