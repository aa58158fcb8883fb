import { CountersignError } from "../lib/domain/errors.ts";
import { CK, type Handle } from "./cryptoki.ts";
import { mapped } from "./errors.ts";
import type { Pkcs11Module } from "./module.ts";
import type { Pkcs11Uri } from "./uri.ts";

/** One slot that holds a token. Text fields come without their padding. */
export interface TokenSlot {
  slot: Handle;
  slotId: number;
  label: string;
  serial: string;
  manufacturer: string;
  model: string;
  initialized: boolean;
  /** CKF_USER_PIN_INITIALIZED */
  pinSet: boolean;
  /** CKF_USER_PIN_LOCKED */
  pinLocked: boolean;
  /** CKF_USER_PIN_FINAL_TRY: one more wrong PIN locks the token */
  pinFinalTry: boolean;
}

export function readSlot(module: Pkcs11Module, slot: Handle): TokenSlot {
  const info = module.api.C_GetTokenInfo(slot);
  const clean = (text: string): string => text.replace(/[\u0000 ]+$/, "");
  return {
    slot,
    slotId: slot.length === 8 ? Number(slot.readBigUInt64LE()) : slot.readUInt32LE(),
    label: clean(info.label),
    serial: clean(info.serialNumber),
    manufacturer: clean(info.manufacturerID),
    model: clean(info.model),
    initialized: (info.flags & CK.CKF_TOKEN_INITIALIZED) !== 0,
    pinSet: (info.flags & CK.CKF_USER_PIN_INITIALIZED) !== 0,
    pinLocked: (info.flags & CK.CKF_USER_PIN_LOCKED) !== 0,
    pinFinalTry: (info.flags & CK.CKF_USER_PIN_FINAL_TRY) !== 0,
  };
}

/** Every slot with a token in it, initialised or not. `wanted`: the token looked for, for messages. */
export function listSlots(module: Pkcs11Module, wanted?: string): TokenSlot[] {
  const context = wanted === undefined ? { doing: "list tokens" } : { doing: `find token "${wanted}"` };
  return mapped({ ...context, module: module.path }, () =>
    module.api.C_GetSlotList(true).map((slot) => readSlot(module, slot)),
  );
}

/**
 * The one initialised token that a URI names.
 * @throws CountersignError `hsm-token-missing` when there is none or more than one
 */
export function findToken(module: Pkcs11Module, uri: Pkcs11Uri): TokenSlot {
  const found = listSlots(module, uri.token).filter(
    (slot) =>
      slot.initialized &&
      (uri.token ?? slot.label) === slot.label &&
      (uri.serial ?? slot.serial) === slot.serial &&
      (uri.manufacturer ?? slot.manufacturer) === slot.manufacturer &&
      (uri.model ?? slot.model) === slot.model &&
      (uri.slotId ?? slot.slotId) === slot.slotId,
  );
  const named = uri.token === undefined ? "the token the URI names" : `token "${uri.token}"`;
  if (found.length === 0) {
    throw new CountersignError(
      "hsm-token-missing",
      `${named} isn't in module ${module.path}: initialise it, and check that the module's own configuration ` +
        "(SOFTHSM2_CONF) points at it; a token made by another process is seen after a restart",
      { details: { token: uri.token ?? "" } },
    );
  }
  if (found.length > 1) {
    throw new CountersignError(
      "hsm-token-missing",
      `${found.length} tokens fit ${named} in module ${module.path}: add serial= to the URI`,
      { details: { token: uri.token ?? "" } },
    );
  }
  return found[0]!;
}
