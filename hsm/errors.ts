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

type Lost = "no" | "session" | "token";

interface Meaning {
  code: ErrorCode;
  advice: string;
  /**
   * What is gone with it. `session`: the session, or the login or handles that hang on it. `token`: the token itself is
   * away, which some modules get over only by being initialised anew.
   */
  lost: Lost;
}

const UNREACHABLE = "check that the HSM is reachable and its module is configured";
const PIN_WRONG = "the token refused the PIN: check the PIN file or variable before trying again, since tokens lock";
const PIN_LOCKED = "the token's user PIN is locked: its security officer has to set a new one";
const TOKEN_MISSING =
  "the token isn't there: check that it is initialised and that the module's own configuration points at it";
const KEY_MISSING = "the token no longer holds that key";
const UNEXTRACTABLE = "private keys never leave the token";
const UNSUPPORTED = "the token doesn't offer this algorithm or key size";
const SESSION_LOST =
  "the HSM dropped its sessions and keeps doing so: look at its own log; they are opened again by themselves";
const NO_SESSION = "the token has no session left: configure fewer, or end who else uses it";
const REMOVED = "the HSM was removed or is restarting: it is tried again by itself";
const DEVICE_FAULT = "the HSM reports a fault: look at its own log; it is tried again by itself";
const FINALIZED = "the PKCS#11 module was finalized while in use: it is initialised again by itself";

/** Name, our code for it, what is lost, and what to do. */
const TABLE: readonly (readonly [ckr: string, code: ErrorCode, lost: Lost, advice: string])[] = [
  ["CKR_PIN_INCORRECT", "hsm-pin-wrong", "no", PIN_WRONG],
  ["CKR_PIN_INVALID", "hsm-pin-wrong", "no", PIN_WRONG],
  ["CKR_PIN_LEN_RANGE", "hsm-pin-wrong", "no", PIN_WRONG],
  ["CKR_PIN_LOCKED", "hsm-pin-locked", "no", PIN_LOCKED],
  ["CKR_PIN_EXPIRED", "hsm-pin-locked", "no", PIN_LOCKED],
  ["CKR_USER_PIN_NOT_INITIALIZED", "hsm-token-missing", "no", "the token has no user PIN yet: initialise it first"],
  ["CKR_TOKEN_NOT_PRESENT", "hsm-token-missing", "token", TOKEN_MISSING],
  ["CKR_TOKEN_NOT_RECOGNIZED", "hsm-token-missing", "token", TOKEN_MISSING],
  ["CKR_SLOT_ID_INVALID", "hsm-token-missing", "token", TOKEN_MISSING],
  ["CKR_KEY_HANDLE_INVALID", "hsm-key-missing", "session", KEY_MISSING],
  ["CKR_OBJECT_HANDLE_INVALID", "hsm-key-missing", "session", KEY_MISSING],
  ["CKR_ATTRIBUTE_SENSITIVE", "hsm-key-unextractable", "no", UNEXTRACTABLE],
  ["CKR_KEY_UNEXTRACTABLE", "hsm-key-unextractable", "no", UNEXTRACTABLE],
  ["CKR_MECHANISM_INVALID", "key-unsupported", "no", UNSUPPORTED],
  ["CKR_MECHANISM_PARAM_INVALID", "key-unsupported", "no", UNSUPPORTED],
  ["CKR_KEY_SIZE_RANGE", "key-unsupported", "no", UNSUPPORTED],
  ["CKR_DOMAIN_PARAMS_INVALID", "key-unsupported", "no", UNSUPPORTED],
  ["CKR_CURVE_NOT_SUPPORTED", "key-unsupported", "no", UNSUPPORTED],
  ["CKR_SESSION_COUNT", "hsm-unavailable", "no", NO_SESSION],
  ["CKR_SESSION_HANDLE_INVALID", "hsm-unavailable", "session", SESSION_LOST],
  ["CKR_SESSION_CLOSED", "hsm-unavailable", "session", SESSION_LOST],
  ["CKR_USER_NOT_LOGGED_IN", "hsm-unavailable", "session", SESSION_LOST],
  ["CKR_OPERATION_ACTIVE", "hsm-unavailable", "session", UNREACHABLE],
  ["CKR_DEVICE_REMOVED", "hsm-unavailable", "token", REMOVED],
  ["CKR_DEVICE_ERROR", "hsm-unavailable", "token", DEVICE_FAULT],
  ["CKR_DEVICE_MEMORY", "hsm-unavailable", "token", UNREACHABLE],
  ["CKR_GENERAL_ERROR", "hsm-unavailable", "token", UNREACHABLE],
  ["CKR_FUNCTION_FAILED", "hsm-unavailable", "token", UNREACHABLE],
  ["CKR_CRYPTOKI_NOT_INITIALIZED", "hsm-unavailable", "token", FINALIZED],
];

const MEANINGS: ReadonlyMap<string, Meaning> = new Map(
  TABLE.map(([ckr, code, lost, advice]) => [ckr, { code, lost, advice }]),
);
const FAULT: Meaning = { code: "internal", lost: "no", advice: "this is a fault of Countersign: please report it" };
/** Of a CKR that isn't in the table, and of a module that can't be loaded. */
const UNKNOWN: Meaning = { code: "hsm-unavailable", lost: "no", advice: UNREACHABLE };

/** Turns what a PKCS#11 call threw into a typed error; our own errors pass unchanged. */
export function hsmError(error: unknown, context: HsmContext): CountersignError {
  if (error instanceof CountersignError) return error;
  const ckr = ckrOf(error);
  // Errors of the language itself come from wrong code; a module that can't be loaded throws neither these nor a CKR.
  const fault = ckr === undefined && (error instanceof TypeError || error instanceof RangeError);
  const meaning = fault ? FAULT : (MEANINGS.get(ckr ?? "") ?? UNKNOWN);
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

/** Whether the session (or the login or handles that hang on it) is gone, so that one new attempt on a new session is due. */
export function isSessionLost(error: unknown): boolean {
  return lostWith(error) !== "no";
}

/** Whether the token itself is away, which some modules get over only by being initialised anew. */
export function isTokenLost(error: unknown): boolean {
  return lostWith(error) === "token";
}

function lostWith(error: unknown): Lost {
  if (isRefusal(error)) return "no";
  const ckr = ckrOf(error);
  if (ckr !== undefined) return MEANINGS.get(ckr)?.lost ?? "no";
  return error instanceof CountersignError && error.code === "hsm-token-missing" ? "token" : "no";
}

/** Refused without asking the token (queue full, closed, circuit open), though it may tell of an earlier failure. */
export function isRefusal(error: unknown): boolean {
  return error instanceof CountersignError && error.details["refused"] !== undefined;
}
