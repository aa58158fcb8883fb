import { ERROR_KINDS, type ErrorCode } from "../../../lib/domain/error-codes.ts";
import { CountersignError, errorCodeOf } from "../../../lib/domain/errors.ts";
import type { SignatureAlgorithm } from "../../../lib/domain/signing.ts";
import type { TokenConfig, TokenHealth } from "../../../hsm/index.ts";
import type { CsrInfoParams } from "../../../lib/pki/csr.ts";
import type { IssuerInfo } from "../../../lib/pki/issuer.ts";

/**
 * What crosses between a site and its issuing processes, over a channel of Node's that only the two of them have.
 * There is no message by which a process signs bytes: it is given a TBS with the name of its profile and its issuer,
 * and lints it again before its own CA key, which takes nothing else, signs.
 */

/** First message to a process. Holds no secret: the PIN stands where the configuration says. */
export interface Configure {
  type: "configure";
  token: TokenConfig;
}

export type Job =
  | { id: number; kind: "certificate"; label: string; tbs: Uint8Array; profile: string; issuer: number }
  | { id: number; kind: "crl"; label: string; tbs: Uint8Array; issuer: number }
  | { id: number; kind: "request"; label: string; subject: Omit<CsrInfoParams, "spki"> }
  | { id: number; kind: "describe"; label: string };

/** Several jobs a message, with each issuer once: `issuer` of a job is an index. */
export interface Sign {
  type: "sign";
  issuers: IssuerInfo[];
  jobs: Job[];
}

export type ToProcess = Configure | Sign | { type: "ping" };

export interface KeyFacts {
  spki: Uint8Array;
  algorithm: SignatureAlgorithm;
}

export type Outcome =
  { id: number; der: Uint8Array } | { id: number; key: KeyFacts } | { id: number; error: WireError };

export type FromProcess =
  /** with the token's health when something failed */
  | { type: "outcomes"; outcomes: Outcome[]; health?: TokenHealth | undefined }
  /** the token is open, or why it isn't */
  | { type: "ready"; error?: WireError }
  | { type: "pong"; health: TokenHealth | undefined };

export interface WireError {
  code: ErrorCode;
  message: string;
  details: Readonly<Record<string, string | number | boolean>>;
}

export function toWire(error: unknown): WireError {
  const message = error instanceof Error ? error.message : String(error);
  return { code: errorCodeOf(error), message, details: error instanceof CountersignError ? error.details : {} };
}

export function fromWire({ code, message, details }: WireError): CountersignError {
  return new CountersignError(Object.hasOwn(ERROR_KINDS, code) ? code : "internal", message, { details });
}
