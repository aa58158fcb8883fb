import { concatBytes, utf8 } from "../domain/bytes.ts";
import { bitString, nullValue, oid, sequence, unsignedInteger } from "../pki/der-write.ts";
import { OID } from "../pki/oids.ts";
import { readSpki } from "../pki/spki.ts";
import { ALG, CURVE, hashOf } from "./algorithms.ts";
import { TpmReader, u16, u32 } from "./cursor.ts";

/** A TPMT_PUBLIC of an RSA-4096 key has 556 octets. */
export const MAX_PUBLIC_OCTETS = 1024;
const MAX_DIGEST = 64;

/** TPMA_OBJECT (Part 2 section 8.3). */
const ATTRIBUTES = {
  fixedTPM: 1,
  stClear: 2,
  fixedParent: 4,
  sensitiveDataOrigin: 5,
  userWithAuth: 6,
  adminWithPolicy: 7,
  noDA: 10,
  encryptedDuplication: 11,
  restricted: 16,
  decrypt: 17,
  sign: 18,
  x509sign: 19,
} as const;
export type ObjectAttribute = keyof typeof ATTRIBUTES;

/** TPMT_PUBLIC of an asymmetric key (Part 2 section 12.2.4). */
export interface PublicArea {
  /** TPMT_PUBLIC, as marshalled: what the Name is over */
  readonly bytes: Uint8Array;
  /** nameAlg and digest: the key's Name (Part 1 section 16) */
  readonly name: Uint8Array;
  readonly nameAlg: number;
  readonly attributes: ReadonlySet<ObjectAttribute>;
  readonly authPolicy: Uint8Array;
  /** TPM_ALG_ID of the scheme that the key is bound to, and of its hash; `ALG.null` for none */
  readonly scheme: { readonly algorithm: number; readonly hash: number };
  /** DER SubjectPublicKeyInfo, validated */
  readonly spki: Uint8Array;
}

/**
 * Reads a TPMT_PUBLIC: RSA keys, and ECC keys on P-256 or P-384, with Names by SHA-256 or longer.
 * @throws CountersignError `attestation-malformed`, and those of {@link readSpki}
 */
export function readPublic(bytes: Uint8Array, what: string): PublicArea {
  const reader = new TpmReader(bytes, what);
  if (bytes.length > MAX_PUBLIC_OCTETS) throw reader.fail(`it has more than ${MAX_PUBLIC_OCTETS} octets`);
  const type = reader.u16();
  if (type !== ALG.rsa && type !== ALG.ecc) throw reader.fail("it is neither an RSA nor an ECC key");
  const nameAlg = reader.u16();
  const named = hashOf(nameAlg);
  if (named === undefined) throw reader.fail("its Name isn't by SHA-256, SHA-384 or SHA-512");
  const attributes = readAttributes(reader);
  const authPolicy = reader.buffer(MAX_DIGEST);
  skipSymmetric(reader);
  const scheme = readScheme(reader);
  const spki = type === ALG.rsa ? readRsa(reader) : readEcc(reader);
  reader.end();
  readSpki(spki);
  const name = concatBytes(u16(nameAlg), named.hash(bytes));
  return { bytes, name, nameAlg, attributes, authPolicy, scheme, spki };
}

function readAttributes(reader: TpmReader): Set<ObjectAttribute> {
  let left = reader.u32();
  const attributes = new Set<ObjectAttribute>();
  for (const [name, bit] of Object.entries(ATTRIBUTES) as [ObjectAttribute, number][]) {
    if ((left & (1 << bit)) === 0) continue;
    attributes.add(name);
    left &= ~(1 << bit);
  }
  if (left !== 0) throw reader.fail("reserved attributes are set");
  return attributes;
}

/** TPMT_SYM_DEF_OBJECT: of storage keys. */
function skipSymmetric(reader: TpmReader): void {
  const algorithm = reader.u16();
  if (algorithm === ALG.null) return;
  if (algorithm !== ALG.aes) throw reader.fail("its symmetric algorithm isn't AES");
  const bits = reader.u16();
  if (bits !== 128 && bits !== 192 && bits !== 256) throw reader.fail("AES with a key of an unknown size");
  if (reader.u16() !== ALG.cfb) throw reader.fail("AES in another mode than CFB");
}

/** TPMT_RSA_SCHEME or TPMT_ECC_SCHEME. */
function readScheme(reader: TpmReader): PublicArea["scheme"] {
  const algorithm = reader.u16();
  switch (algorithm) {
    case ALG.null:
    case ALG.rsaes:
      return { algorithm, hash: ALG.null };
    case ALG.rsassa:
    case ALG.rsapss:
    case ALG.oaep:
    case ALG.ecdsa:
    case ALG.ecdh:
    case ALG.sm2:
    case ALG.ecschnorr:
    case ALG.ecmqv:
      return { algorithm, hash: reader.u16() };
    case ALG.ecdaa: {
      const hash = reader.u16();
      reader.u16();
      return { algorithm, hash };
    }
    default:
      throw reader.fail("its scheme is unknown");
  }
}

/** Zero stands for the exponent 2^16 + 1 (Part 2 section 12.2.3.5). */
function readRsa(reader: TpmReader): Uint8Array {
  const bits = reader.u16();
  const exponent = reader.u32() || 65_537;
  const modulus = reader.buffer(512);
  if (modulus.length * 8 !== bits || modulus[0]! < 0x80) throw reader.fail("its modulus isn't of the size it says");
  const octets = Uint8Array.of(exponent >>> 24, (exponent >>> 16) & 0xff, (exponent >>> 8) & 0xff, exponent & 0xff);
  const key = sequence(unsignedInteger(modulus), unsignedInteger(octets));
  return sequence(sequence(oid(OID.rsaEncryption), nullValue()), bitString(key));
}

function readEcc(reader: TpmReader): Uint8Array {
  const curve = reader.u16();
  const width = curve === CURVE.p256 ? 32 : curve === CURVE.p384 ? 48 : undefined;
  if (width === undefined) throw reader.fail("its curve is neither P-256 nor P-384");
  const kdf = reader.u16();
  if (kdf !== ALG.null) reader.u16();
  const point = new Uint8Array(1 + 2 * width);
  point[0] = 4;
  for (const end of [1 + width, 1 + 2 * width]) {
    const coordinate = reader.buffer(width);
    // One spelling: without its leading zeros, or with all of them.
    if (coordinate.length !== width && (coordinate.length === 0 || coordinate[0] === 0)) {
      throw reader.fail("a coordinate is neither minimal nor as wide as its curve");
    }
    point.set(coordinate, end - coordinate.length);
  }
  const named = curve === CURVE.p256 ? OID.prime256v1 : OID.secp384r1;
  return sequence(sequence(oid(OID.ecPublicKey), oid(named)), bitString(point));
}

/** TPM_RH of the hierarchies that outlive a restart. */
const HIERARCHIES = [0x40000001, 0x4000000b, 0x4000000c];

/**
 * The Qualified Names that a key can have with these ancestors, its parent last: one for each hierarchy that the first of
 * them can be a primary key of (Part 1 section 16.3). Without ancestors the key is itself a primary one.
 */
export function qualifiedNames(key: PublicArea, ancestors: readonly PublicArea[]): Uint8Array[] {
  return HIERARCHIES.map((handle) => {
    let above: Uint8Array = u32(handle);
    for (const { name, nameAlg } of [...ancestors, key]) {
      above = concatBytes(u16(nameAlg), hashOf(nameAlg)!.hash(concatBytes(above, name)));
    }
    return above;
  });
}

/** A label of KDFa and KDFe, or of OAEP: with its final NUL. */
export const label = (text: string): Uint8Array => utf8(`${text}\0`);
