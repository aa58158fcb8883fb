import { existsSync, realpathSync } from "node:fs";
import { isAbsolute } from "node:path";
import { isMainThread } from "node:worker_threads";
import { CountersignError } from "../lib/domain/errors.ts";
import { CK, type Pkcs11Api, newPkcs11Api } from "./cryptoki.ts";
import { ckrOf, hsmError } from "./errors.ts";

/** A loaded and initialised PKCS#11 module. */
export class Pkcs11Module {
  readonly path: string;
  readonly api: Pkcs11Api;
  #initialized = false;
  #users = 0;
  #generation = 0;
  #calls = 0;
  #idle: (() => void) | undefined;
  #restarting: Promise<boolean> | undefined;

  constructor(path: string, api: Pkcs11Api) {
    this.path = path;
    this.api = api;
  }

  /** Open tokens; finalizing under them would kill their sessions. */
  get users(): number {
    return this.#users;
  }

  /** Grows when the module is initialised anew: sessions, logins and handles of an earlier one are gone. */
  get generation(): number {
    return this.#generation;
  }

  /** Announces a native call that another thread makes; every one is followed by `leave` once it has returned. */
  async enter(): Promise<void> {
    while (this.#restarting !== undefined) await this.#restarting;
    this.#calls++;
  }

  leave(): void {
    if (--this.#calls === 0) this.#idle?.();
  }

  initialize(): void {
    if (this.#initialized) return;
    try {
      // Without CKF_OS_LOCKING_OK the module doesn't lock, and signing on several threads crashes the process.
      this.api.C_Initialize({ flags: CK.CKF_OS_LOCKING_OK });
    } catch (error) {
      // Another thread, or OpenSSL's engine, was first: initialisation is shared by the whole process.
      if (ckrOf(error) !== "CKR_CRYPTOKI_ALREADY_INITIALIZED") throw error;
    }
    this.#initialized = true;
  }

  finalize(): void {
    if (!this.#initialized) return;
    this.#initialized = false;
    this.#generation++;
    this.api.C_Finalize();
  }

  /**
   * Finalizes and initialises the module, by which many find a token again that was away (SoftHSM finds none otherwise).
   * Waits for calls under way; new ones wait meanwhile. Other tokens of the module open their sessions anew afterwards.
   * @returns false when calls didn't return within `waitMs`, in which case nothing was done
   * @throws what C_Initialize throws; the next restart tries again
   */
  restart(waitMs: number): Promise<boolean> {
    this.#restarting ??= this.#restart(waitMs).finally(() => (this.#restarting = undefined));
    return this.#restarting;
  }

  async #restart(waitMs: number): Promise<boolean> {
    // Finalizing from a worker thread would end the module under the main thread's sessions.
    if (!isMainThread) return false;
    if (this.#calls > 0) {
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, waitMs)));
      await Promise.race([new Promise<void>((resolve) => (this.#idle = resolve)), late]);
      clearTimeout(timer);
      this.#idle = undefined;
    }
    if (this.#calls > 0) return false;
    try {
      this.finalize();
    } catch {
      // An HSM that is away may fail to say goodbye; what counts is whether it can be initialised.
    }
    this.initialize();
    return true;
  }

  retain(): void {
    this.#users++;
  }

  release(): void {
    this.#users--;
  }
}

// C_Initialize is per process, not per caller: one module object a path, kept for the life of the process.
const modules = new Map<string, Pkcs11Module>();

/**
 * The module at an absolute path, loaded and initialised once. Modules read their own configuration (SOFTHSM2_CONF)
 * at this moment and not again.
 * @throws CountersignError `input-invalid`, `hsm-unavailable`
 */
export function loadModule(path: string): Pkcs11Module {
  if (!isAbsolute(path)) {
    throw new CountersignError("input-invalid", `PKCS#11 module "${path}" must be an absolute path`);
  }
  if (!existsSync(path)) {
    throw new CountersignError(
      "hsm-unavailable",
      `PKCS#11 module ${path} isn't installed (SoftHSM: apt install softhsm2)`,
    );
  }
  const real = realpathSync(path);
  try {
    let loaded = modules.get(real);
    if (loaded === undefined) {
      const api = newPkcs11Api();
      api.load(real);
      loaded = new Pkcs11Module(real, api);
    }
    loaded.initialize();
    modules.set(real, loaded);
    return loaded;
  } catch (error) {
    throw hsmError(error, { doing: "load a PKCS#11 module", module: real });
  }
}

/**
 * Ends a module, so that the next `loadModule` reads its configuration again. For the device simulator, which moves
 * from one token directory to the next. It ends the module for the whole process, hence not from a worker thread and
 * not under an open token.
 * @throws CountersignError `state-conflict`
 */
export function finalizeModule(path: string): void {
  const real = existsSync(path) ? realpathSync(path) : path;
  const loaded = modules.get(real);
  if (loaded === undefined) return;
  if (!isMainThread) {
    throw new CountersignError(
      "state-conflict",
      "a worker thread may not finalize a PKCS#11 module of the whole process",
    );
  }
  if (loaded.users > 0) {
    throw new CountersignError(
      "state-conflict",
      `${loaded.users} tokens of module ${real} are still open: close them first`,
    );
  }
  try {
    loaded.finalize();
  } catch (error) {
    throw hsmError(error, { doing: "finalize a PKCS#11 module", module: real });
  }
}
