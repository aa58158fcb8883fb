import { createHmac, randomBytes } from "node:crypto";
import { CountersignError } from "../lib/domain/errors.ts";
import { type PinSource, pinVersion, readPin } from "./pin.ts";

/**
 * Tokens count wrong PINs and lock. A PIN that a token refused is therefore never offered to it a second time, by any
 * part of this process; another one in the same file is. After a lock, writing the PIN file again says that somebody
 * has unlocked the token.
 */

/** A PIN that was refused, as this process remembers it: by a keyed digest that is worthless outside it. */
export interface RefusedPin {
  print: string;
  code: "hsm-pin-wrong" | "hsm-pin-locked";
  message: string;
}

const processKey = randomBytes(32).toString("hex");
const MAX_REMEMBERED = 64;
/** by module */
const refusedPins = new Map<string, RefusedPin[]>();

/** What the connector's thread is told about PINs: where this one stands, and which ones which tokens refused. */
export interface PinAccess {
  source: PinSource;
  key: string;
  refused: readonly RefusedPin[];
}

export function pinAccess(module: string, source: PinSource): PinAccess {
  return { source, key: processKey, refused: refusedPins.get(module) ?? [] };
}

export function rememberRefused(module: string, refused: RefusedPin): void {
  const known = (refusedPins.get(module) ?? []).filter(({ print }) => print !== refused.print);
  refusedPins.set(module, [...known, refused].slice(-MAX_REMEMBERED));
}

export interface OfferedPin {
  pin: string;
  /** how to remember it when the token refuses it with this code */
  refusal(code: RefusedPin["code"], message: string): RefusedPin;
}

/** @throws CountersignError as `readPin`; the token's own refusal again for a PIN that it refused before */
export function pinToOffer({ source, key, refused }: PinAccess, token: { serial: string; label: string }): OfferedPin {
  const version = pinVersion(source);
  const pin = readPin(source);
  const print = (code: RefusedPin["code"]): string =>
    createHmac("sha256", key)
      .update([code, token.serial, token.label, pin, code === "hsm-pin-wrong" ? "" : version].join("\0"))
      .digest("hex");
  const again = refused.find((known) => known.print === print(known.code));
  if (again !== undefined) {
    throw new CountersignError(again.code, `${again.message} (it isn't offered again)`);
  }
  return { pin, refusal: (code, message) => ({ print: print(code), code, message }) };
}
