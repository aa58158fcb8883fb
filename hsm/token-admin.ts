import {
  KeyGenMechanism,
  MechanismEnum,
  Module,
  ObjectClass,
  type Session,
  SessionFlag,
  type SessionObject,
  Slot,
  UserType,
} from "graphene-pk11";
import { toHex } from "../lib/domain/bytes.ts";
import { CountersignError } from "../lib/domain/errors.ts";
import { sha256Hex } from "../lib/domain/hash.ts";
import type { KeyAlgorithm } from "../lib/domain/signing.ts";
import { CK } from "./cryptoki.ts";
import { ckrOf, hsmError } from "./errors.ts";
import { type KeyRole, roleOfLabel } from "./key-role.ts";
import { type Pkcs11Module, loadModule } from "./module.ts";
import { type PinSource, randomPin, readPin } from "./pin.ts";
import { readPublicKey } from "./public-key.ts";
import { type TokenSlot, findToken, listSlots } from "./slots.ts";
import type { TokenConfig } from "./token.ts";
import { parsePkcs11Uri } from "./uri.ts";

/** Set-up and inspection of tokens: rare work, done by people and ceremonies, never on the way of a signature. */

export interface InitTokenRequest {
  /** absolute path of the PKCS#11 module */
  module: string;
  /** 1 to 32 bytes of UTF-8, unique in the module */
  label: string;
  /** Left out, a random PIN is set and forgotten: nobody can ever reset the user PIN. */
  soPin?: PinSource;
  pin: PinSource;
}

/**
 * Makes a token in a free slot and sets its PINs. A token left without a user PIN by a crash is completed.
 * @throws CountersignError `already-exists`: a token with keys in it is never initialised again
 */
export async function initToken(request: InitTokenRequest): Promise<void> {
  const { label } = request;
  // eslint-disable-next-line no-control-regex -- a label is one line of text
  if (label.trim() !== label || !/^[^\u0000-\u001f\u007f]+$/.test(label) || Buffer.byteLength(label) > 32) {
    throw new CountersignError(
      "input-invalid",
      `token label ${JSON.stringify(label.slice(0, 80))} isn't 1 to 32 bytes of text`,
    );
  }
  const pin = readPin(request.pin);
  const soPin = request.soPin === undefined ? randomPin() : readPin(request.soPin);
  const module = loadModule(request.module);
  const slots = listSlots(module);
  const existing = slots.find((slot) => slot.initialized && slot.label === label);
  if (existing?.pinSet === true) {
    throw new CountersignError("already-exists", `token "${label}" is there already: use it, or choose another label`);
  }
  const target = existing ?? slots.find((slot) => !slot.initialized);
  if (target === undefined) {
    throw new CountersignError("hsm-unavailable", `module ${module.path} has no free slot for token "${label}"`);
  }
  try {
    // Not graphene's slot.initToken: it expects an answer that pkcs11js 2 no longer gives, and throws after success.
    if (existing === undefined) module.api.C_InitToken(target.slot, soPin, blankPadded(label));
    const session = grapheneSlot(module, target).open(SessionFlag.SERIAL_SESSION | SessionFlag.RW_SESSION);
    try {
      session.login(soPin, UserType.SO);
      session.initPin(pin);
      session.logout();
    } finally {
      session.close();
    }
  } catch (error) {
    throw hsmError(error, { doing: "initialise a token", token: label, module: module.path });
  }
}

export interface TokenDescription {
  label: string;
  serial: string;
  manufacturer: string;
  model: string;
  pinLocked: boolean;
}

/** The initialised tokens of a module; no PIN is needed. */
export function listTokens(modulePath: string): TokenDescription[] {
  return listSlots(loadModule(modulePath))
    .filter((slot) => slot.initialized)
    .map(({ label, serial, manufacturer, model, pinLocked }) => ({ label, serial, manufacturer, model, pinLocked }));
}

export function tokenExists(modulePath: string, label: string): boolean {
  return listTokens(modulePath).some((token) => token.label === label);
}

export interface KeyDescription {
  label: string;
  /** CKA_ID, hex */
  id: string;
  role: KeyRole;
  algorithm: KeyAlgorithm;
  /** hex SHA-256 of the DER SubjectPublicKeyInfo */
  keyId: string;
  /** what the token says of the private key */
  sensitive: boolean;
  extractable: boolean;
  alwaysSensitive: boolean;
  neverExtractable: boolean;
  /** made inside the token */
  local: boolean;
}

/** Every private key of a token, as the token itself describes it. Keys of types that aren't used here are left out. */
export async function describeKeys(config: TokenConfig): Promise<KeyDescription[]> {
  return withUserSession(config, "describe the keys", (session, module) => {
    const described: KeyDescription[] = [];
    for (const key of objects(session, { class: ObjectClass.PRIVATE_KEY })) {
      const { label, id } = key.getAttribute({ label: null, id: null }) as { label: string; id: Buffer };
      const [half] = objects(session, { class: ObjectClass.PUBLIC_KEY, id });
      if (half === undefined) continue;
      const { algorithm, spki } = readPublicKey(module.api, session.handle, half.handle, label);
      const flag = (name: string): boolean => key.getAttribute(name) === true;
      described.push({
        label,
        id: toHex(id),
        role: roleOfLabel(label),
        algorithm,
        keyId: sha256Hex(spki),
        sensitive: flag("sensitive"),
        extractable: flag("extractable"),
        alwaysSensitive: flag("alwaysSensitive"),
        neverExtractable: flag("neverExtractable"),
        local: flag("local"),
      });
    }
    return described.sort((a, b) => (a.label < b.label ? -1 : 1));
  });
}

export interface ExtractionAttempt {
  /** CKR_* of C_GetAttributeValue on the private value; "CKR_OK" would mean that the key leaked */
  readValue: string;
  /** CKR_* of C_WrapKey under a key of the caller's own; CKR_FUNCTION_NOT_SUPPORTED of a token that wraps nothing at all */
  wrap: string;
}

/**
 * Tries to take a private key out of its token, the two ways PKCS#11 has, and reports what the token answered. A sound
 * token says CKR_ATTRIBUTE_SENSITIVE and CKR_KEY_UNEXTRACTABLE.
 */
export async function attemptExtraction(config: TokenConfig, label: string): Promise<ExtractionAttempt> {
  return withUserSession(config, "attempt to extract a key", (session) => {
    const [key] = objects(session, { class: ObjectClass.PRIVATE_KEY, label });
    if (key === undefined) throw new CountersignError("hsm-key-missing", `the token has no private key "${label}"`);
    const rsa = (key.getAttribute("keyType") as number) === CK.CKK_RSA;
    return {
      readValue: answer(() => key.getAttribute(rsa ? "privateExponent" : "value")),
      wrap: answer(() => {
        // A session object: gone with the session.
        const wrapping = session.generateKey(KeyGenMechanism.AES, {
          class: ObjectClass.SECRET_KEY,
          token: false,
          valueLen: 32,
          wrap: true,
          unwrap: true,
        });
        return session.wrapKey(MechanismEnum.AES_KEY_WRAP_PAD, wrapping, key.toType());
      }),
    };
  });
}

function answer(attempt: () => unknown): string {
  try {
    attempt();
    return "CKR_OK";
  } catch (error) {
    return ckrOf(error) ?? "no PKCS#11 answer";
  }
}

function objects(session: Session, template: Record<string, unknown>): SessionObject[] {
  const found = session.find(template);
  return Array.from({ length: found.length }, (_, index) => found.items(index));
}

function grapheneSlot(module: Pkcs11Module, slot: TokenSlot): Slot {
  return new Slot(slot.slot, new Module(module.api), module.api);
}

async function withUserSession<T>(
  config: TokenConfig,
  doing: string,
  work: (session: Session, module: Pkcs11Module) => T,
): Promise<T> {
  const module = loadModule(config.module);
  const token = findToken(module, parsePkcs11Uri(config.uri));
  const pin = readPin(config.pin);
  const context = { doing, token: token.label, module: module.path };
  try {
    const session = grapheneSlot(module, token).open();
    try {
      try {
        session.login(pin, UserType.USER);
      } catch (error) {
        if (ckrOf(error) !== "CKR_USER_ALREADY_LOGGED_IN") throw error;
      }
      return work(session, module);
    } finally {
      session.close();
    }
  } catch (error) {
    throw hsmError(error, context);
  }
}

/** A token label is a field of 32 bytes, padded with blanks (PKCS#11 section 5.5): others look for exactly that. */
function blankPadded(label: string): string {
  return label + " ".repeat(32 - Buffer.byteLength(label));
}
