import { CountersignError } from "../lib/domain/errors.ts";
import type { ErrorCode } from "../lib/domain/error-codes.ts";

/** Where an error happened: names and paths only, never a PIN. */
export interface HsmContext {
  /** what was being done, after "can't": "log in", "sign" */
  doing: string;
  token?: string;
  key?: string;
  module?: string;
}

const CKR = /(CKR_[A-Z0-9_]+)(?::(\d+))?/;

/** The CKR_* name of a PKCS#11 error ("CKR_PIN_INCORRECT"), undefined for anything else. */
export function ckrOf(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  const name = CKR.exec(error.message)?.[1];
  if (name === undefined && error.cause !== undefined) return ckrOf(error.cause);
  return name;
}

interface Meaning {
  code: ErrorCode;
  advice: string;
}

const PIN_WRONG: Meaning = {
  code: "hsm-pin-wrong",
  advice: "the token refused the PIN: check the PIN file or variable before trying again, since tokens lock",
};
const PIN_LOCKED: Meaning = {
  code: "hsm-pin-locked",
  advice: "the token's user PIN is locked: its security officer has to set a new one",
};
const TOKEN_MISSING: Meaning = {
  code: "hsm-token-missing",
  advice: "the token isn't there: check that it is initialised and that the module's own configuration points at it",
};
const KEY_MISSING: Meaning = { code: "hsm-key-missing", advice: "the token no longer holds that key" };
const UNEXTRACTABLE: Meaning = { code: "hsm-key-unextractable", advice: "private keys never leave the token" };
const UNSUPPORTED: Meaning = { code: "key-unsupported", advice: "the token doesn't offer this algorithm or key size" };
const FAULT: Meaning = { code: "internal", advice: "this is a fault of Countersign: please report it" };
const UNAVAILABLE: Meaning = {
  code: "hsm-unavailable",
  advice: "check that the HSM is reachable and its module is configured",
};
const LOST_SESSION: Meaning = {
  code: "hsm-unavailable",
  advice: "the HSM dropped its sessions and keeps doing so: look at its own log; they are opened again by themselves",
};

const MEANINGS: Readonly<Record<string, Meaning>> = {
  CKR_PIN_INCORRECT: PIN_WRONG,
  CKR_PIN_INVALID: PIN_WRONG,
  CKR_PIN_LEN_RANGE: PIN_WRONG,
  CKR_PIN_LOCKED: PIN_LOCKED,
  CKR_PIN_EXPIRED: PIN_LOCKED,
  CKR_USER_PIN_NOT_INITIALIZED: { ...TOKEN_MISSING, advice: "the token has no user PIN yet: initialise it first" },
  CKR_TOKEN_NOT_PRESENT: TOKEN_MISSING,
  CKR_TOKEN_NOT_RECOGNIZED: TOKEN_MISSING,
  CKR_SLOT_ID_INVALID: TOKEN_MISSING,
  CKR_KEY_HANDLE_INVALID: KEY_MISSING,
  CKR_OBJECT_HANDLE_INVALID: KEY_MISSING,
  CKR_ATTRIBUTE_SENSITIVE: UNEXTRACTABLE,
  CKR_KEY_UNEXTRACTABLE: UNEXTRACTABLE,
  CKR_MECHANISM_INVALID: UNSUPPORTED,
  CKR_MECHANISM_PARAM_INVALID: UNSUPPORTED,
  CKR_KEY_SIZE_RANGE: UNSUPPORTED,
  CKR_DOMAIN_PARAMS_INVALID: UNSUPPORTED,
  CKR_CURVE_NOT_SUPPORTED: UNSUPPORTED,
  CKR_SESSION_COUNT: {
    ...UNAVAILABLE,
    advice: "the token has no session left: configure fewer, or end who else uses it",
  },
  CKR_DEVICE_REMOVED: { ...UNAVAILABLE, advice: "the HSM was removed or is restarting: it is tried again by itself" },
  CKR_DEVICE_ERROR: {
    ...UNAVAILABLE,
    advice: "the HSM reports a fault: look at its own log; it is tried again by itself",
  },
  CKR_SESSION_HANDLE_INVALID: LOST_SESSION,
  CKR_SESSION_CLOSED: LOST_SESSION,
  CKR_USER_NOT_LOGGED_IN: LOST_SESSION,
  CKR_CRYPTOKI_NOT_INITIALIZED: {
    ...UNAVAILABLE,
    advice: "the PKCS#11 module was finalized while in use: it is initialised again by itself",
  },
};

/** Turns what a PKCS#11 call threw into a typed error; our own errors pass unchanged. */
export function hsmError(error: unknown, context: HsmContext): CountersignError {
  if (error instanceof CountersignError) return error;
  const ckr = ckrOf(error);
  // Errors of the language itself come from wrong code; a module that can't be loaded throws neither these nor a CKR.
  const fault = ckr === undefined && (error instanceof TypeError || error instanceof RangeError);
  const meaning = fault ? FAULT : ((ckr === undefined ? undefined : MEANINGS[ckr]) ?? UNAVAILABLE);
  const where = [
    context.key === undefined ? "" : ` with key "${context.key}"`,
    context.token === undefined ? "" : ` in token "${context.token}"`,
    context.module === undefined ? "" : ` through module ${context.module}`,
  ].join("");
  const reason = ckr ?? (error instanceof Error ? error.message.slice(0, 200) : "unknown failure");
  const details: Record<string, string> = {};
  if (ckr !== undefined) details.ckr = ckr;
  if (context.token !== undefined) details.token = context.token;
  if (context.key !== undefined) details.key = context.key;
  return new CountersignError(meaning.code, `can't ${context.doing}${where} (${reason}): ${meaning.advice}`, {
    cause: error,
    details,
  });
}

/** Runs PKCS#11 calls and maps what they throw. */
export function mapped<T>(context: HsmContext, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw hsmError(error, context);
  }
}

const LOST = new Set([
  "CKR_SESSION_HANDLE_INVALID",
  "CKR_SESSION_CLOSED",
  "CKR_DEVICE_ERROR",
  "CKR_DEVICE_MEMORY",
  "CKR_DEVICE_REMOVED",
  "CKR_TOKEN_NOT_PRESENT",
  "CKR_TOKEN_NOT_RECOGNIZED",
  "CKR_SLOT_ID_INVALID",
  "CKR_USER_NOT_LOGGED_IN",
  "CKR_KEY_HANDLE_INVALID",
  "CKR_OBJECT_HANDLE_INVALID",
  "CKR_OPERATION_ACTIVE",
  "CKR_GENERAL_ERROR",
  "CKR_FUNCTION_FAILED",
  "CKR_CRYPTOKI_NOT_INITIALIZED",
]);

/** Whether the session (or the login or handles that hang on it) is gone, so that one new attempt on a new session is due. */
export function isSessionLost(error: unknown): boolean {
  return !isRefusal(error) && (LOST.has(ckrOf(error) ?? "") || isTokenLost(error));
}

const MODULE_LOST = new Set([
  "CKR_DEVICE_ERROR",
  "CKR_DEVICE_MEMORY",
  "CKR_DEVICE_REMOVED",
  "CKR_TOKEN_NOT_PRESENT",
  "CKR_TOKEN_NOT_RECOGNIZED",
  "CKR_SLOT_ID_INVALID",
  "CKR_GENERAL_ERROR",
  "CKR_FUNCTION_FAILED",
  "CKR_CRYPTOKI_NOT_INITIALIZED",
]);

/** Whether the token itself is away, which some modules get over only by being initialised anew. */
export function isTokenLost(error: unknown): boolean {
  if (isRefusal(error)) return false;
  const ckr = ckrOf(error);
  if (ckr !== undefined) return MODULE_LOST.has(ckr);
  return error instanceof CountersignError && error.code === "hsm-token-missing";
}

/** Refused without asking the token (queue full, closed, circuit open), though it may tell of an earlier failure. */
export function isRefusal(error: unknown): boolean {
  return error instanceof CountersignError && error.details["refused"] !== undefined;
}
