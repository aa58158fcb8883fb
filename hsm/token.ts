import { CountersignError } from "../lib/domain/errors.ts";
import type { KeyAlgorithm, Signer } from "../lib/domain/signing.ts";
import { CaKey } from "./ca-key.ts";
import { CK, type Handle, findObjects } from "./cryptoki.ts";
import { hsmError } from "./errors.ts";
import { assertKeyLabel, assertRole } from "./key-role.ts";
import { type KeyName, type TokenKeyPair, destroyKeyPair, findKeyPair, generateKeyPair, showKeyName } from "./keys.ts";
import { Login } from "./login.ts";
import { type Pkcs11Module, loadModule } from "./module.ts";
import type { PinSource } from "./pin.ts";
import { SessionPool } from "./session-pool.ts";
import { type KeyHome, TokenKey } from "./signer.ts";
import { type TokenSlot, findToken } from "./slots.ts";
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
  const module = loadModule(config.module);
  const slot = findToken(module, uri);
  module.retain();
  try {
    const login = new Login(module, slot, config.pin);
    const pool = await SessionPool.open(login, config.sessions ?? DEFAULT_SESSIONS);
    return new Token(module, slot, login, pool);
  } catch (error) {
    module.release();
    throw error;
  }
}

/** A logged-in token. Keys made or found through it keep working until `close`. */
export class Token {
  readonly label: string;
  readonly serial: string;
  // Private at run time too: whoever had the pool or the module could sign anything with a CA's key.
  readonly #module: Pkcs11Module;
  readonly #pool: SessionPool;
  readonly #login: Login;
  readonly #home: KeyHome;
  #generating: Promise<unknown> = Promise.resolve();
  #closed: Promise<void> | undefined;

  /** Use `openToken`. */
  constructor(module: Pkcs11Module, slot: TokenSlot, login: Login, pool: SessionPool) {
    this.label = slot.label;
    this.serial = slot.serial;
    this.#module = module;
    this.#pool = pool;
    this.#login = login;
    this.#home = {
      label: slot.label,
      module,
      pool,
      refind: (pair) => this.#find({ label: pair.label, id: pair.id }),
    };
  }

  /**
   * A key that signs anything, by label or by URI (`pkcs11:object=act`, `pkcs11:id=%01%02`).
   * @throws CountersignError `hsm-key-missing`; `unauthorized` for a CA key
   */
  async signer(key: string): Promise<Signer> {
    const pair = await this.#find(this.#keyName(key));
    assertRole(pair.label, "signing");
    return new TokenKey(this.#home, pair);
  }

  /**
   * A key that signs only linted certificates and CRLs.
   * @throws CountersignError `hsm-key-missing`; `unauthorized` for a key that isn't labelled as a CA's
   */
  async caKey(key: string): Promise<CaKey> {
    const pair = await this.#find(this.#keyName(key));
    assertRole(pair.label, "ca");
    return new CaKey(new TokenKey(this.#home, pair));
  }

  /** @throws CountersignError `hsm-key-exists`, `key-unsupported`; `unauthorized` for a CA's label */
  async generateKey(request: { label: string; algorithm: KeyAlgorithm }): Promise<Signer> {
    assertRole(assertKeyLabel(request.label), "signing");
    return new TokenKey(this.#home, await this.#generate(request));
  }

  /** @throws CountersignError `hsm-key-exists`, `key-unsupported`; `unauthorized` for a label that isn't a CA's */
  async generateCaKey(request: { label: string; algorithm: KeyAlgorithm }): Promise<CaKey> {
    assertRole(assertKeyLabel(request.label), "ca");
    return new CaKey(new TokenKey(this.#home, await this.#generate(request)));
  }

  async hasKey(label: string): Promise<boolean> {
    return (await this.#lookUp({ label })) !== undefined;
  }

  /** Waits for signatures under way, then closes this object's sessions; the last one of the process logs out. */
  close(): Promise<void> {
    this.#closed ??= this.#pool.close().then(() => this.#module.release());
    return this.#closed;
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

  async #find(name: KeyName): Promise<TokenKeyPair> {
    const pair = await this.#lookUp(name);
    if (pair === undefined) {
      throw new CountersignError(
        "hsm-key-missing",
        `token "${this.label}" has no private key "${showKeyName(name)}": make it, or correct the key's name`,
        { details: { token: this.label, key: showKeyName(name) } },
      );
    }
    return pair;
  }

  async #lookUp(name: KeyName): Promise<TokenKeyPair | undefined> {
    return this.#withSession(0, "look up a key", name, (session) =>
      findKeyPair(this.#module.api, session, name, this.label),
    );
  }

  /** One generation at a time, and the label is counted before and after: another process may make the same one. */
  async #generate({ label, algorithm }: { label: string; algorithm: KeyAlgorithm }): Promise<TokenKeyPair> {
    const turn = this.#generating.then(() =>
      this.#withSession(CK.CKF_RW_SESSION, "make a key", { label }, async (session) => {
        const { api } = this.#module;
        const template = [
          { type: CK.CKA_CLASS, value: CK.CKO_PRIVATE_KEY },
          { type: CK.CKA_LABEL, value: label },
        ];
        if (findObjects(api, session, template, 1).length > 0) throw this.#exists(label);
        const pair = await generateKeyPair(api, session, label, algorithm);
        if (findObjects(api, session, template, 2).length > 1) {
          destroyKeyPair(api, session, pair);
          throw this.#exists(label);
        }
        return pair;
      }),
    );
    this.#generating = turn.catch(() => undefined);
    return turn;
  }

  #exists(label: string): CountersignError {
    return new CountersignError(
      "hsm-key-exists",
      `token "${this.label}" already has a key "${label}": use it, or choose another label`,
      { details: { token: this.label, key: label } },
    );
  }

  /** A session apart from the pool's, for the rare work that isn't signing. */
  async #withSession<T>(
    flags: number,
    doing: string,
    key: KeyName,
    work: (session: Handle) => T | Promise<T>,
  ): Promise<T> {
    if (this.#closed !== undefined) throw new CountersignError("hsm-unavailable", `token "${this.label}" was closed`);
    const session = await this.#login.open(flags);
    try {
      return await work(session);
    } catch (error) {
      throw hsmError(error, { doing, token: this.label, key: showKeyName(key) });
    } finally {
      this.#login.close(session);
    }
  }
}
