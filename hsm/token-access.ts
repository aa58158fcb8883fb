import { CountersignError } from "../lib/domain/errors.ts";
import { CK, type Handle, findObjects } from "./cryptoki.ts";
import { ckrOf, hsmError, mapped } from "./errors.ts";
import { type KeyName, type TokenKeyPair, findKeyPair, showKeyName } from "./keys.ts";
import type { Pkcs11Module } from "./module.ts";
import { type PinAccess, type RefusedPin, pinToOffer } from "./pin-guard.ts";
import { type TokenSlot, findToken, readSlot } from "./slots.ts";
import { parsePkcs11Uri } from "./uri.ts";

/**
 * What is asked of a token besides signatures, each call blocking until the HSM has answered: they run on the
 * connector's thread, so that a slow HSM holds up nothing else.
 */

export interface OpenRequest {
  uri: string;
  /** left out: the token is looked for */
  slot: TokenSlot | undefined;
  flags: number;
  pin: PinAccess;
  /** offer the PIN even if the process is logged in already, so that a PIN file that is missing or unsafe shows */
  prove: boolean;
}

export interface Opened {
  slot: TokenSlot;
  session: Handle;
}

/** A refused PIN on its way to the memory of them. */
export class PinRefusedError extends Error {
  readonly refused: RefusedPin;
  readonly error: CountersignError;

  constructor(refused: RefusedPin, error: CountersignError) {
    super(refused.message);
    this.refused = refused;
    this.error = error;
  }
}

/** Opens a session, and logs the process in if it isn't. */
export function openSession(module: Pkcs11Module, request: OpenRequest): Opened {
  const slot = request.slot ?? findToken(module, parsePkcs11Uri(request.uri));
  const context = { token: slot.label, module: module.path };
  const session = mapped({ doing: "open a session", ...context }, () =>
    module.api.C_OpenSession(slot.slot, CK.CKF_SERIAL_SESSION | request.flags),
  );
  try {
    const { state } = mapped({ doing: "read a session's state", ...context }, () =>
      module.api.C_GetSessionInfo(session),
    );
    const loggedIn = state === CK.CKS_RO_USER_FUNCTIONS || state === CK.CKS_RW_USER_FUNCTIONS;
    if (!loggedIn || request.prove) logIn(module, slot, session, request.pin);
    return { slot, session };
  } catch (error) {
    closeSession(module, session);
    throw error;
  }
}

function logIn(module: Pkcs11Module, slot: TokenSlot, session: Handle, access: PinAccess): void {
  const context = { doing: "log in", token: slot.label, module: module.path };
  const offered = namingToken(slot, () => pinToOffer(access, slot));
  if (mapped(context, () => readSlot(module, slot.slot)).pinLocked) {
    throw hsmError(new Error("CKR_PIN_LOCKED"), context);
  }
  try {
    module.api.C_Login(session, CK.CKU_USER, offered.pin);
  } catch (error) {
    if (ckrOf(error) === "CKR_USER_ALREADY_LOGGED_IN") return;
    const refusal = hsmError(error, context);
    const { code } = refusal;
    if (code !== "hsm-pin-wrong" && code !== "hsm-pin-locked") throw refusal;
    const warned = withRemainingTries(module, slot, refusal);
    throw new PinRefusedError(offered.refusal(code, warned.message), warned);
  }
}

/** PIN files know nothing of tokens; whoever reads the error wants both. */
function namingToken<T>({ label }: TokenSlot, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof CountersignError) || error.message.includes(`"${label}"`)) throw error;
    throw new CountersignError(error.code, `can't log in to token "${label}": ${error.message}`, {
      cause: error,
      details: { ...error.details, token: label },
    });
  }
}

function withRemainingTries(module: Pkcs11Module, { slot }: TokenSlot, error: CountersignError): CountersignError {
  let warning = "";
  try {
    const { pinLocked, pinFinalTry } = readSlot(module, slot);
    warning = pinLocked ? "; the token is locked now" : pinFinalTry ? "; ONE more wrong PIN locks it" : "";
  } catch {
    // The refusal itself is the news.
  }
  return new CountersignError(error.code, error.message + warning, { cause: error.cause, details: error.details });
}

export function closeSession(module: Pkcs11Module, session: Handle): void {
  try {
    module.api.C_CloseSession(session);
  } catch {
    // Gone already, which is what was wanted.
  }
}

/** @throws CountersignError as `findKeyPair` */
export function findKey(module: Pkcs11Module, request: OpenRequest, name: KeyName): TokenKeyPair | undefined {
  return withSession(module, request, "look up a key", name, (session, token) =>
    findKeyPair(module.api, session, name, token),
  );
}

/** How many private keys have the label; counts to two. */
export function countKeys(module: Pkcs11Module, request: OpenRequest, label: string): number {
  return withSession(module, request, "count keys", { label }, (session) => {
    const template = [
      { type: CK.CKA_CLASS, value: CK.CKO_PRIVATE_KEY },
      { type: CK.CKA_LABEL, value: label },
    ];
    return findObjects(module.api, session, template, 2).length;
  });
}

function withSession<T>(
  module: Pkcs11Module,
  request: OpenRequest,
  doing: string,
  key: KeyName,
  work: (session: Handle, token: string) => T,
): T {
  const { session, slot } = openSession(module, request);
  try {
    return mapped({ doing, token: slot.label, key: showKeyName(key) }, () => work(session, slot.label));
  } finally {
    closeSession(module, session);
  }
}
