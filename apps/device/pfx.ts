import { createCipheriv, createHash, createHmac, hash, type KeyObject, pbkdf2Sync, randomBytes } from "node:crypto";
import { utf8 } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import {
  encodeElement,
  explicit,
  implicit,
  integer,
  nullValue,
  octetString,
  oid,
  sequence,
  setOf,
} from "../../lib/pki/der-write.ts";

/**
 * PKCS #12 (RFC 7292) as today's tools read it: key and certificates each under PBES2 with PBKDF2-HMAC-SHA-256 and
 * AES-256-CBC (RFC 8018), the whole under an HMAC-SHA-256.
 */

const OIDS = {
  data: "1.2.840.113549.1.7.1",
  encryptedData: "1.2.840.113549.1.7.6",
  shroudedKeyBag: "1.2.840.113549.1.12.10.1.2",
  certBag: "1.2.840.113549.1.12.10.1.3",
  x509Certificate: "1.2.840.113549.1.9.22.1",
  friendlyName: "1.2.840.113549.1.9.20",
  localKeyId: "1.2.840.113549.1.9.21",
  pbes2: "1.2.840.113549.1.5.13",
  pbkdf2: "1.2.840.113549.1.5.12",
  hmacSha256: "1.2.840.113549.2.9",
  aes256Cbc: "2.16.840.1.101.3.4.1.42",
  sha256: "2.16.840.1.101.3.4.2.1",
} as const;

const BMP_STRING = 0x1e;
/** For all three: the weakest would be what an attacker tries passwords against. */
const ITERATIONS = 600_000;
const MIN_PASSWORD = 8;
const MAX_PASSWORD = 256;

export interface PfxContent {
  readonly key: KeyObject;
  /** DER, leaf first */
  readonly chain: readonly Uint8Array[];
  /** what tools show it by */
  readonly name: string;
}

/** @throws CountersignError `input-invalid` for a password of another length than 8 to 256 characters */
export function encodePfx({ key, chain, name }: PfxContent, password: string): Uint8Array {
  if (password.length < MIN_PASSWORD || password.length > MAX_PASSWORD || password.includes("\0")) {
    throw new CountersignError("input-invalid", `a password has ${MIN_PASSWORD} to ${MAX_PASSWORD} characters`);
  }
  const [leaf, ...above] = chain;
  if (leaf === undefined) throw new CountersignError("input-invalid", "the chain is empty");
  const own = [
    sequence(oid(OIDS.localKeyId), setOf(octetString(createHash("sha256").update(leaf).digest()))),
    sequence(oid(OIDS.friendlyName), setOf(encodeElement(BMP_STRING, bmp(name)))),
  ];
  const pkcs8 = key.export({ type: "pkcs8", format: "der" });
  const [algorithm, encrypted] = encrypt(pkcs8, password);
  const keys = sequence(bag(OIDS.shroudedKeyBag, sequence(algorithm, octetString(encrypted)), own));
  pkcs8.fill(0);
  const certificates = sequence(certificateBag(leaf, own), ...above.map((one) => certificateBag(one, [])));
  const safe = sequence(encryptedContent(certificates, password), content(keys));
  return sequence(integer(3), content(safe), mac(safe, password));
}

function content(bytes: Uint8Array): Uint8Array {
  return sequence(oid(OIDS.data), explicit(0, octetString(bytes)));
}

function encryptedContent(bytes: Uint8Array, password: string): Uint8Array {
  const [algorithm, encrypted] = encrypt(bytes, password);
  const inner = sequence(oid(OIDS.data), algorithm, implicit(0, encrypted));
  return sequence(oid(OIDS.encryptedData), explicit(0, sequence(integer(0), inner)));
}

function bag(kind: string, value: Uint8Array, attributes: readonly Uint8Array[]): Uint8Array {
  return sequence(oid(kind), explicit(0, value), ...(attributes.length === 0 ? [] : [setOf(...attributes)]));
}

function certificateBag(der: Uint8Array, attributes: readonly Uint8Array[]): Uint8Array {
  return bag(OIDS.certBag, sequence(oid(OIDS.x509Certificate), explicit(0, octetString(der))), attributes);
}

/** PBES2 (RFC 8018, section 6.2): its AlgorithmIdentifier, and what it gives. */
function encrypt(bytes: Uint8Array, password: string): [algorithm: Uint8Array, encrypted: Uint8Array] {
  const [salt, iv] = [randomBytes(16), randomBytes(16)];
  const cipher = createCipheriv("aes-256-cbc", pbkdf2Sync(utf8(password), salt, ITERATIONS, 32, "sha256"), iv);
  const encrypted = Buffer.concat([cipher.update(bytes), cipher.final()]);
  const prf = sequence(oid(OIDS.hmacSha256), nullValue());
  const derivation = sequence(oid(OIDS.pbkdf2), sequence(octetString(salt), integer(ITERATIONS), prf));
  const scheme = sequence(oid(OIDS.aes256Cbc), octetString(iv));
  return [sequence(oid(OIDS.pbes2), sequence(derivation, scheme)), encrypted];
}

function mac(safe: Uint8Array, password: string): Uint8Array {
  const salt = randomBytes(16);
  const digest = createHmac("sha256", macKey(password, salt)).update(safe).digest();
  const algorithm = sequence(oid(OIDS.sha256), nullValue());
  return sequence(sequence(algorithm, octetString(digest)), octetString(salt), integer(ITERATIONS));
}

/** RFC 7292, appendix B.2, for as much as one SHA-256 gives: no second block is needed. */
function macKey(password: string, salt: Uint8Array): Uint8Array {
  const [block, purpose] = [64, 3];
  const text = Buffer.concat([bmp(password), Buffer.alloc(2)]);
  let value: Buffer = Buffer.concat([Buffer.alloc(block, purpose), repeated(salt, block), repeated(text, block)]);
  for (let i = 0; i < ITERATIONS; i++) value = hash("sha256", value, "buffer");
  return value;
}

function repeated(bytes: Uint8Array, block: number): Buffer {
  return Buffer.alloc(Math.ceil(bytes.length / block) * block, bytes);
}

/** UTF-16, big-endian. */
function bmp(text: string): Buffer {
  return Buffer.from(text, "utf16le").swap16();
}
