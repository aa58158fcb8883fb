import { type JsonWebKey, createPublicKey } from "node:crypto";
import { toHex } from "../lib/domain/bytes.ts";
import { CountersignError } from "../lib/domain/errors.ts";
import type { KeyAlgorithm } from "../lib/domain/signing.ts";
import { CK, type Handle, type Pkcs11Api, readAttribute, readUlong } from "./cryptoki.ts";

export interface PublicKeyInfo {
  algorithm: KeyAlgorithm;
  /** DER SubjectPublicKeyInfo */
  spki: Uint8Array;
}

interface Curve {
  algorithm: KeyAlgorithm;
  kty: "EC" | "OKP";
  crv: string;
  /** bytes of a coordinate */
  size: number;
}

const P256: Curve = { algorithm: "ec-p256", kty: "EC", crv: "P-256", size: 32 };
const P384: Curve = { algorithm: "ec-p384", kty: "EC", crv: "P-384", size: 48 };
const ED25519: Curve = { algorithm: "ed25519", kty: "OKP", crv: "Ed25519", size: 32 };

/** DER CKA_EC_PARAMS: what a key pair is asked for with. */
export const EC_PARAMS = {
  "ec-p256": "06082a8648ce3d030107",
  "ec-p384": "06052b81040022",
  ed25519: "06032b6570",
} as const;

/** Tokens name Ed25519 by RFC 8410's OID or by PKCS#11 v3.0's PrintableString "edwards25519". */
const CURVES: Readonly<Record<string, Curve>> = {
  [EC_PARAMS["ec-p256"]]: P256,
  [EC_PARAMS["ec-p384"]]: P384,
  [EC_PARAMS.ed25519]: ED25519,
  "130c656477617264733235353139": ED25519,
};

/**
 * Reads a public key object. Anyone with the token may replace public objects, so this is only a claim; it becomes a
 * fact when the first signature made with the private key verifies under it, and no signature is released before.
 * @throws CountersignError `key-unsupported`, `hsm-key-missing`
 */
export function readPublicKey(api: Pkcs11Api, session: Handle, object: Handle, label: string): PublicKeyInfo {
  const type = readUlong(api, session, object, CK.CKA_KEY_TYPE);
  if (type === CK.CKK_RSA) {
    const n = readAttribute(api, session, object, CK.CKA_MODULUS);
    const e = readAttribute(api, session, object, CK.CKA_PUBLIC_EXPONENT);
    return rsaKey(n, e, label);
  }
  if (type === CK.CKK_EC || type === CK.CKK_EC_EDWARDS) {
    const params = readAttribute(api, session, object, CK.CKA_EC_PARAMS);
    const curve = CURVES[toHex(params)];
    if (curve === undefined) {
      throw new CountersignError("key-unsupported", `key "${label}" is on a curve other than P-256, P-384 and Ed25519`);
    }
    return curveKey(curve, readAttribute(api, session, object, CK.CKA_EC_POINT), label);
  }
  throw new CountersignError("key-unsupported", `key "${label}" has key type ${type}: use EC, Ed25519 or RSA`);
}

function curveKey(curve: Curve, attribute: Buffer, label: string): PublicKeyInfo {
  const length = curve.kty === "EC" ? 1 + 2 * curve.size : curve.size;
  // PKCS#11 wants a DER OCTET STRING; some tokens give the bare point. Its length tells which.
  const wrapped = attribute.length === length + 2 && attribute[0] === 0x04 && attribute[1] === length;
  const point = wrapped ? attribute.subarray(2) : attribute;
  if (point.length !== length || (curve.kty === "EC" && point[0] !== 0x04)) {
    throw new CountersignError(
      "key-unsupported",
      `the public point of key "${label}" isn't an uncompressed ${curve.crv} point`,
    );
  }
  const coordinates = curve.kty === "EC" ? point.subarray(1) : point;
  const jwk: JsonWebKey = {
    kty: curve.kty,
    crv: curve.crv,
    x: coordinates.subarray(0, curve.size).toString("base64url"),
  };
  if (curve.kty === "EC") jwk.y = coordinates.subarray(curve.size).toString("base64url");
  return { algorithm: curve.algorithm, spki: exportSpki(jwk, label) };
}

function rsaKey(modulus: Buffer, exponent: Buffer, label: string): PublicKeyInfo {
  const n = stripZeros(modulus);
  const e = stripZeros(exponent);
  const bits = n.length * 8 - Math.clz32(n[0] ?? 0) + 24;
  if (bits !== 2048 && bits !== 3072 && bits !== 4096) {
    throw new CountersignError("key-unsupported", `key "${label}" is RSA-${bits}: use 2048, 3072 or 4096 bits`);
  }
  const jwk = { kty: "RSA", n: n.toString("base64url"), e: e.toString("base64url") };
  return { algorithm: `rsa-${bits}`, spki: exportSpki(jwk, label) };
}

function stripZeros(bytes: Buffer): Buffer {
  let start = 0;
  while (start < bytes.length && bytes[start] === 0) start++;
  return bytes.subarray(start);
}

function exportSpki(jwk: JsonWebKey, label: string): Uint8Array {
  try {
    return new Uint8Array(createPublicKey({ key: jwk, format: "jwk" }).export({ format: "der", type: "spki" }));
  } catch (cause) {
    throw new CountersignError("key-unsupported", `the public half of key "${label}" is not a valid key`, { cause });
  }
}
