import type { ErrorCode } from "../lib/domain/error-codes.ts";
import type { Handle } from "./cryptoki.ts";
import type { KeyName, TokenKeyPair } from "./keys.ts";
import type { RefusedPin } from "./pin-guard.ts";
import type { OpenRequest, Opened } from "./token-access.ts";

/** What crosses between the connector (connector.ts) and its thread (connector-thread.ts). */

export type Work =
  | { op: "open"; access: OpenRequest }
  | { op: "find"; access: OpenRequest; name: KeyName }
  | { op: "count"; access: OpenRequest; label: string }
  | { op: "close"; sessions: readonly Handle[] };

export interface Results {
  open: Opened;
  find: TokenKeyPair | undefined;
  count: number;
  close: undefined;
}

export interface WorkError {
  code: ErrorCode;
  message: string;
  details: Readonly<Record<string, string | number | boolean>>;
  cause: string | undefined;
  refused: RefusedPin | undefined;
}

export type Answer = { value: unknown; error?: undefined } | { error: WorkError };

/** The work was refused because of a PIN: to be remembered. */
export type OnRefused = (refused: RefusedPin) => void;
