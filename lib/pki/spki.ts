import { equalBytes } from "../domain/bytes.ts";
import { sha256, sha256Hex } from "../domain/hash.ts";
import { CountersignError } from "../domain/errors.ts";
import type { KeyAlgorithm } from "../domain/signing.ts";
import { ed25519Fault, weierstrassFault, type PointFault } from "./curves.ts";
import { inside, readWhole, type DerReader } from "./der.ts";
import { OID } from "./oids.ts";
import { pemEncode } from "./pem.ts";
import { rsaWeakness } from "./rsa-weak.ts";

/** An SPKI of our largest key, RSA 4096, has 550 octets. */
const MAX_SPKI_OCTETS = 1024;

export interface PublicKey {
  readonly algorithm: KeyAlgorithm;
  /** DER SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7) */
  readonly spki: Uint8Array;
  /** Content of the subjectPublicKey BIT STRING */
  readonly keyOctets: Uint8Array;
}

/**
 * Reads and validates a SubjectPublicKeyInfo: P-256 and P-384 (RFC 5480, named curve, uncompressed), Ed25519
 * (RFC 8410), RSA 2048, 3072 or 4096.
 * @throws CountersignError `der-invalid`; `key-unsupported` for other algorithms, curves, sizes and point forms;
 * `key-weak` for points off the curve or of small order, short RSA moduli and bad exponents
 */
export function readSpki(spki: Uint8Array): PublicKey {
  if (spki.length > MAX_SPKI_OCTETS)
    throw unsupported(`a public key of ${spki.length} octets is larger than any we take`);
  const reader = inside(readWhole(spki));
  const identifier = reader.enter();
  const algorithmOid = identifier.oid();
  const keyOctets = reader.bitString();
  reader.end();
  const algorithm = readKey(algorithmOid, identifier, keyOctets);
  identifier.end();
  return { algorithm, spki, keyOctets };
}

export function keyAlgorithmOf(spki: Uint8Array): KeyAlgorithm {
  return readSpki(spki).algorithm;
}

function readKey(algorithmOid: string, parameters: DerReader, keyOctets: Uint8Array): KeyAlgorithm {
  if (algorithmOid === OID.ecPublicKey) {
    if (parameters.peek() !== 0x06) throw unsupported("EC keys must name their curve; explicit parameters are refused");
    const curve = parameters.oid();
    if (curve !== OID.prime256v1 && curve !== OID.secp384r1) throw unsupported(`EC curve ${curve}: use P-256 or P-384`);
    const p256 = curve === OID.prime256v1;
    refusePoint(weierstrassFault(p256 ? "p256" : "p384", keyOctets), p256 ? "P-256" : "P-384");
    return p256 ? "ec-p256" : "ec-p384";
  }
  if (algorithmOid === OID.ed25519) {
    refusePoint(ed25519Fault(keyOctets), "Ed25519");
    return "ed25519";
  }
  if (algorithmOid === OID.rsaEncryption) {
    parameters.null();
    return readRsa(keyOctets);
  }
  throw unsupported(`key algorithm ${algorithmOid}: use P-256, P-384, Ed25519 or RSA of 2048, 3072 or 4096 bits`);
}

function readRsa(keyOctets: Uint8Array): KeyAlgorithm {
  const reader = inside(readWhole(keyOctets));
  const modulus = reader.unsigned();
  const exponent = reader.unsigned();
  reader.end();
  const bits = modulus.length * 8 - (Math.clz32(modulus[0]!) - 24);
  if (bits < 2048) throw weak(`RSA key of ${bits} bits: use 2048 or more`);
  if (bits !== 2048 && bits !== 3072 && bits !== 4096)
    throw unsupported(`RSA key of ${bits} bits: use 2048, 3072 or 4096`);
  const weakness = rsaWeakness(modulus, exponent);
  if (weakness !== undefined) throw weak(`RSA key refused: ${weakness}`);
  return `rsa-${bits}`;
}

function refusePoint(fault: PointFault | undefined, curve: string): void {
  if (fault === undefined) return;
  if (fault === "compressed") throw unsupported(`${curve} key with a compressed point: send the uncompressed form`);
  if (fault === "length") throw unsupported(`${curve} key of the wrong length or point form`);
  throw weak(`${curve} key refused: the point is ${fault === "small-order" ? "of small order" : "not on the curve"}`);
}

/** A key's name everywhere in Countersign: lower-case hex SHA-256 of its DER SubjectPublicKeyInfo. */
export function keyId(spki: Uint8Array): string {
  return sha256Hex(spki);
}

/**
 * Subject key identifier: RFC 7093 method 1, the leftmost 160 bits of the SHA-256 of the subjectPublicKey. Not the
 * SHA-1 of RFC 5280 section 4.2.1.2, which FIPS modules no longer offer; relying parties only compare the octets.
 */
export function subjectKeyIdentifier(spki: Uint8Array): Uint8Array {
  if (lastKey === undefined || !equalBytes(lastKey.spki, spki)) {
    const reader = inside(readWhole(spki));
    reader.read();
    lastKey = { spki: spki.slice(), ski: sha256(reader.bitString()).slice(0, 20) };
  }
  return lastKey.ski.slice();
}

/** The linter asks for it of the same key right after the builder has. */
let lastKey: { readonly spki: Uint8Array; readonly ski: Uint8Array } | undefined;

export function spkiPem(spki: Uint8Array): string {
  return pemEncode("PUBLIC KEY", spki);
}

function unsupported(message: string): CountersignError {
  return new CountersignError("key-unsupported", message);
}

function weak(message: string): CountersignError {
  return new CountersignError("key-weak", message);
}
