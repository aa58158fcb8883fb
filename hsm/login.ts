import { CountersignError } from "../lib/domain/errors.ts";
import { CK, type Handle } from "./cryptoki.ts";
import { ckrOf, hsmError, mapped } from "./errors.ts";
import type { Pkcs11Module } from "./module.ts";
import { type PinSource, readPin } from "./pin.ts";
import type { SessionSource } from "./session-pool.ts";
import { type TokenSlot, readSlot } from "./slots.ts";

/** Opens sessions on one slot and logs in where that is needed. */
export class Login implements SessionSource {
  readonly #module: Pkcs11Module;
  readonly #slot: TokenSlot;
  readonly #pin: PinSource;
  #refused: CountersignError | undefined;
  #proven = false;

  constructor(module: Pkcs11Module, slot: TokenSlot, pin: PinSource) {
    this.#module = module;
    this.#slot = slot;
    this.#pin = pin;
  }

  async open(flags = 0): Promise<Handle> {
    // Tokens count wrong PINs and lock: a refused one is never offered a second time.
    if (this.#refused !== undefined) throw this.#refused;
    const { api, path } = this.#module;
    const context = { token: this.#slot.label, module: path };
    const session = mapped({ doing: "open a session", ...context }, () =>
      api.C_OpenSession(this.#slot.slot, CK.CKF_SERIAL_SESSION | flags),
    );
    try {
      const { state } = mapped({ doing: "read a session's state", ...context }, () => api.C_GetSessionInfo(session));
      const loggedIn = state === CK.CKS_RO_USER_FUNCTIONS || state === CK.CKS_RW_USER_FUNCTIONS;
      // The first time also when the process is logged in, so that a PIN file that is missing or unsafe shows at once.
      if (!loggedIn || !this.#proven) await this.#logIn(session);
      this.#proven = true;
      return session;
    } catch (error) {
      this.close(session);
      throw error;
    }
  }

  async #logIn(session: Handle): Promise<void> {
    const { api, path } = this.#module;
    const pin = await readPin(this.#pin);
    if (this.#refused !== undefined) throw this.#refused;
    try {
      api.C_Login(session, CK.CKU_USER, pin);
    } catch (error) {
      if (ckrOf(error) === "CKR_USER_ALREADY_LOGGED_IN") return;
      const mappedError = hsmError(error, { doing: "log in", token: this.#slot.label, module: path });
      if (mappedError.code === "hsm-pin-wrong" || mappedError.code === "hsm-pin-locked") {
        this.#refused = this.#withRemainingTries(mappedError);
        throw this.#refused;
      }
      throw mappedError;
    }
  }

  #withRemainingTries(error: CountersignError): CountersignError {
    const { pinLocked, pinFinalTry } = readSlot(this.#module, this.#slot.slot);
    const warning = pinLocked ? "; the token is locked now" : pinFinalTry ? "; ONE more wrong PIN locks it" : "";
    return new CountersignError(error.code, error.message + warning, { cause: error.cause, details: error.details });
  }

  close(session: Handle): void {
    try {
      this.#module.api.C_CloseSession(session);
    } catch {
      // Gone already, which is what was wanted.
    }
  }
}
