import { concatBytes, equalBytes } from "../domain/bytes.ts";
import type { KeyAlgorithm, SignatureAlgorithm, VerifySignature } from "../domain/signing.ts";
import { nullValue, oid, sequence } from "./der-write.ts";
import { OID } from "./oids.ts";
import { keyAlgorithmOf } from "./spki.ts";

/** What an AlgorithmIdentifier says. ECDSA's name a hash and no curve: {@link algorithmFor} adds the key's. */
export type SignatureScheme =
  | "ecdsa-sha256"
  | "ecdsa-sha384"
  | "ecdsa-sha512"
  | "ed25519"
  | "rsa-pkcs1-sha256"
  | "rsa-pkcs1-sha384"
  | "rsa-pkcs1-sha512";

/** AlgorithmIdentifiers (RFC 5758, RFC 8410, RFC 4055), the one DER encoding each has. No SHA-1, no SHA-224, no PSS. */
const IDENTIFIERS: Record<SignatureScheme, Uint8Array> = {
  "ecdsa-sha256": sequence(oid(OID.ecdsaWithSha256)),
  "ecdsa-sha384": sequence(oid(OID.ecdsaWithSha384)),
  "ecdsa-sha512": sequence(oid(OID.ecdsaWithSha512)),
  ed25519: sequence(oid(OID.ed25519)),
  "rsa-pkcs1-sha256": sequence(concatBytes(oid(OID.sha256WithRsaEncryption), nullValue())),
  "rsa-pkcs1-sha384": sequence(concatBytes(oid(OID.sha384WithRsaEncryption), nullValue())),
  "rsa-pkcs1-sha512": sequence(concatBytes(oid(OID.sha512WithRsaEncryption), nullValue())),
};
const SCHEMES = Object.entries(IDENTIFIERS) as [SignatureScheme, Uint8Array][];

/** DER AlgorithmIdentifier. */
export function algorithmIdentifier(algorithm: SignatureAlgorithm): Uint8Array {
  return IDENTIFIERS[schemeOf(algorithm)];
}

export function schemeOf(algorithm: SignatureAlgorithm): SignatureScheme {
  return algorithm.replace(/^ecdsa-p\d+/, "ecdsa") as SignatureScheme;
}

/** The scheme of a DER AlgorithmIdentifier; undefined for any other octets. */
export function signatureSchemeOf(identifier: Uint8Array): SignatureScheme | undefined {
  return SCHEMES.find(([, der]) => equalBytes(der, identifier))?.[0];
}

/** The scheme under a key; undefined where the key can't sign by it. Any of our hashes goes with either curve. */
export function algorithmFor(scheme: SignatureScheme, key: KeyAlgorithm): SignatureAlgorithm | undefined {
  if (key === "ec-p256" || key === "ec-p384") {
    return scheme.startsWith("ecdsa-")
      ? (scheme.replace("ecdsa", `ecdsa-${key.slice(3)}`) as SignatureAlgorithm)
      : undefined;
  }
  const family = key === "ed25519" ? "ed25519" : "rsa-pkcs1-";
  return scheme.startsWith(family) ? (scheme as SignatureAlgorithm) : undefined;
}

export function algorithmFitsKey(algorithm: SignatureAlgorithm, key: KeyAlgorithm): boolean {
  return algorithmFor(schemeOf(algorithm), key) === algorithm;
}

/** What we sign with, given the key: the hash of the curve's own strength, SHA-256 with RSA. */
export function signatureAlgorithmForKey(key: KeyAlgorithm): SignatureAlgorithm {
  if (key === "ec-p256") return "ecdsa-p256-sha256";
  if (key === "ec-p384") return "ecdsa-p384-sha384";
  return key === "ed25519" ? "ed25519" : "rsa-pkcs1-sha256";
}

/** A certificate, CRL or request: what was signed, and how. */
export interface SignedObject {
  readonly tbs: Uint8Array;
  readonly signatureScheme: SignatureScheme | undefined;
  readonly signature: Uint8Array;
}

/**
 * Whether the key made the object's signature. False too when the scheme isn't one of ours or not the key's.
 * @throws CountersignError those of readSpki
 */
export async function isSignedBy(signed: SignedObject, spki: Uint8Array, verify: VerifySignature): Promise<boolean> {
  const { tbs: message, signatureScheme, signature } = signed;
  const algorithm = signatureScheme && algorithmFor(signatureScheme, keyAlgorithmOf(spki));
  return algorithm !== undefined && (await verify({ spki, algorithm, message, signature })) === true;
}
