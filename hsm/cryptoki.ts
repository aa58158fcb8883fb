import pkcs11js from "pkcs11js";

/** The PKCS#11 v2.40 and v3.0 names this room uses. pkcs11js stops at v2.40, so the Edwards curve ones are written out. */
export const CK = {
  CKF_SERIAL_SESSION: 0x4,
  CKF_RW_SESSION: 0x2,
  CKF_OS_LOCKING_OK: 0x2,
  CKF_USER_PIN_INITIALIZED: 0x8,
  CKF_TOKEN_INITIALIZED: 0x400,
  CKF_USER_PIN_FINAL_TRY: 0x20000,
  CKF_USER_PIN_LOCKED: 0x40000,
  CKU_USER: 1,
  CKS_RO_USER_FUNCTIONS: 1,
  CKS_RW_USER_FUNCTIONS: 3,

  CKO_PUBLIC_KEY: 2,
  CKO_PRIVATE_KEY: 3,

  CKK_RSA: 0x0,
  CKK_EC: 0x3,
  CKK_EC_EDWARDS: 0x40,

  CKA_CLASS: 0x0,
  CKA_TOKEN: 0x1,
  CKA_PRIVATE: 0x2,
  CKA_LABEL: 0x3,
  CKA_KEY_TYPE: 0x100,
  CKA_ID: 0x102,
  CKA_SENSITIVE: 0x103,
  CKA_ENCRYPT: 0x104,
  CKA_DECRYPT: 0x105,
  CKA_WRAP: 0x106,
  CKA_UNWRAP: 0x107,
  CKA_SIGN: 0x108,
  CKA_VERIFY: 0x10a,
  CKA_DERIVE: 0x10c,
  CKA_MODULUS: 0x120,
  CKA_MODULUS_BITS: 0x121,
  CKA_PUBLIC_EXPONENT: 0x122,
  CKA_EXTRACTABLE: 0x162,
  CKA_EC_PARAMS: 0x180,
  CKA_EC_POINT: 0x181,

  CKM_RSA_PKCS_KEY_PAIR_GEN: 0x0,
  CKM_RSA_PKCS: 0x1,
  CKM_EC_KEY_PAIR_GEN: 0x1040,
  CKM_ECDSA: 0x1041,
  CKM_EC_EDWARDS_KEY_PAIR_GEN: 0x1055,
  CKM_EDDSA: 0x1057,
} as const;

/** An opaque CK_ULONG handle of a slot, session or object, as pkcs11js carries it. */
export type Handle = Buffer;
export type Template = pkcs11js.Template;
export type Pkcs11Api = pkcs11js.PKCS11;

export function newPkcs11Api(): Pkcs11Api {
  return new pkcs11js.PKCS11();
}

/** Calls C_FindObjects until it has at most `limit` handles; the search is always ended, so the session stays usable. */
export function findObjects(api: Pkcs11Api, session: Handle, template: Template, limit: number): Handle[] {
  const found: Handle[] = [];
  api.C_FindObjectsInit(session, template);
  try {
    while (found.length < limit) {
      const batch = api.C_FindObjects(session, limit - found.length);
      if (batch.length === 0) break;
      found.push(...batch);
    }
  } finally {
    api.C_FindObjectsFinal(session);
  }
  return found;
}

/** One attribute's bytes. @throws a PKCS#11 error when the token won't give it */
export function readAttribute(api: Pkcs11Api, session: Handle, object: Handle, type: number): Buffer {
  return api.C_GetAttributeValue(session, object, [{ type }])[0]!.value;
}

export function readBoolean(api: Pkcs11Api, session: Handle, object: Handle, type: number): boolean {
  return readAttribute(api, session, object, type)[0] === 1;
}

/** A CK_ULONG attribute; its width and byte order are the platform's (little-endian on every platform Node 24 supports here). */
export function readUlong(api: Pkcs11Api, session: Handle, object: Handle, type: number): number {
  const value = readAttribute(api, session, object, type);
  return value.length === 8 ? Number(value.readBigUInt64LE()) : value.readUInt32LE();
}
