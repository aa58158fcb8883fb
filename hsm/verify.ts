import { type KeyObject, createPublicKey, verify } from "node:crypto";
import type { SignatureAlgorithm, VerifySignature } from "../lib/domain/signing.ts";

type Check = Parameters<VerifySignature>[0];

interface Scheme {
  hash: "sha256" | "sha384" | "sha512" | null;
  keyType: "ec" | "ed25519" | "rsa";
  curve?: string;
}

const SCHEMES: Readonly<Record<SignatureAlgorithm, Scheme>> = {
  "ecdsa-p256-sha256": { hash: "sha256", keyType: "ec", curve: "prime256v1" },
  "ecdsa-p256-sha384": { hash: "sha384", keyType: "ec", curve: "prime256v1" },
  "ecdsa-p256-sha512": { hash: "sha512", keyType: "ec", curve: "prime256v1" },
  "ecdsa-p384-sha256": { hash: "sha256", keyType: "ec", curve: "secp384r1" },
  "ecdsa-p384-sha384": { hash: "sha384", keyType: "ec", curve: "secp384r1" },
  "ecdsa-p384-sha512": { hash: "sha512", keyType: "ec", curve: "secp384r1" },
  ed25519: { hash: null, keyType: "ed25519" },
  "rsa-pkcs1-sha256": { hash: "sha256", keyType: "rsa" },
  "rsa-pkcs1-sha384": { hash: "sha384", keyType: "rsa" },
  "rsa-pkcs1-sha512": { hash: "sha512", keyType: "rsa" },
};

/** Parsing a key costs several times what a P-256 verification does, and issuers' keys come again and again. */
const CACHED_KEYS = 256;
/** RSA-4096's SubjectPublicKeyInfo has 550 bytes; nothing longer is parsed. */
const MAX_SPKI_BYTES = 1024;
const keys = new Map<string, { key: KeyObject; curve: string | undefined }>();

function publicKey(spki: Uint8Array): { key: KeyObject; curve: string | undefined } {
  const name = Buffer.from(spki.buffer, spki.byteOffset, spki.byteLength).toString("latin1");
  let entry = keys.get(name);
  if (entry === undefined) {
    const key = createPublicKey({ key: Buffer.from(spki), format: "der", type: "spki" });
    entry = { key, curve: key.asymmetricKeyDetails?.namedCurve };
    if (keys.size >= CACHED_KEYS) keys.delete(keys.keys().next().value!);
  } else {
    keys.delete(name);
  }
  // Put last: a Map keeps insertion order, so the first entry is the one unused for longest.
  keys.set(name, entry);
  return entry;
}

/** What Node's verify is called with; undefined for a key that isn't of the algorithm's own type and curve. */
function prepared({ spki, algorithm }: Check): { hash: Scheme["hash"]; key: KeyObject } | undefined {
  const scheme = Object.hasOwn(SCHEMES, algorithm) ? SCHEMES[algorithm] : undefined;
  if (scheme === undefined || spki.length > MAX_SPKI_BYTES) return undefined;
  const { key, curve } = publicKey(spki);
  if (key.asymmetricKeyType !== scheme.keyType || curve !== scheme.curve) return undefined;
  return { hash: scheme.hash, key };
}

/** Signature checks by OpenSSL. The key must be of the algorithm's own type and curve; false for anything else. */
export const nodeVerify = ((check): boolean => {
  try {
    const use = prepared(check);
    // The key object itself, whose ECDSA signatures are DER by default: an options object around it costs a fifth more.
    return use !== undefined && verify(use.hash, check.message, use.key, check.signature);
  } catch {
    return false;
  }
}) satisfies VerifySignature;

/** As `nodeVerify`, on a thread of libuv's: for who checks many, since the main thread has all the rest to do. */
export const nodeVerifyAside = (async (check) => {
  try {
    const use = prepared(check);
    return use !== undefined && (await aside(use.hash, use.key, check));
  } catch {
    return false;
  }
}) satisfies VerifySignature;

/** Node copies message and signature before it returns: the caller's buffers may change meanwhile. */
function aside(hash: Scheme["hash"], key: KeyObject | string, { message, signature }: Check): Promise<boolean> {
  return new Promise((resolve) =>
    verify(hash, message, key, signature, (error, valid) => resolve(error === null && valid)),
  );
}

/** SubjectPublicKeyInfo of an uncompressed P-256 key, up to the point's coordinates. */
const P256_SPKI = Buffer.from("3059301306072a8648ce3d020106082a8648ce3d03010703420004", "hex");
const P256_SPKI_BYTES = P256_SPKI.length + 64;

/** The key as `verify` parses it soonest, of a check with a key that comes once; undefined: go by `nodeVerify`. */
function plainKey({ spki, algorithm }: Check): string | undefined {
  const plain =
    algorithm === "ecdsa-p256-sha256" &&
    spki.length === P256_SPKI_BYTES &&
    P256_SPKI.compare(spki, 0, P256_SPKI.length) === 0;
  if (!plain) return undefined;
  // PEM, though the bytes are at hand: Node takes a third longer over a buffer, asking first what kind of key it is.
  // The bytes above name type and curve; that the point is on it, the import checks.
  const text = Buffer.from(spki.buffer, spki.byteOffset, spki.byteLength).toString("base64");
  return `-----BEGIN PUBLIC KEY-----\n${text.slice(0, 64)}\n${text.slice(64)}\n-----END PUBLIC KEY-----\n`;
}

/**
 * As `nodeVerify`, for keys that come once: a device's own, under its CSR. Parsed where it is used, in one call, and not
 * kept; a lot's keys would only push the issuers' out of the cache.
 */
export const nodeVerifyOnce = ((check): boolean => {
  const key = plainKey(check);
  if (key === undefined) return nodeVerify(check);
  try {
    return verify("sha256", check.message, key, check.signature);
  } catch {
    return false;
  }
}) satisfies VerifySignature;

/** As `nodeVerifyOnce`, on a thread of libuv's. */
export const nodeVerifyOnceAside = (async (check) => {
  const key = plainKey(check);
  if (key === undefined) return nodeVerifyAside(check);
  try {
    return await aside("sha256", key, check);
  } catch {
    return false;
  }
}) satisfies VerifySignature;

/** How many parsed keys are held; for tests of the bound. */
export function cachedKeyCount(): number {
  return keys.size;
}
