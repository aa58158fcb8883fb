import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { CountersignError } from "../../lib/domain/errors.ts";
import { assertDeviceId } from "../../lib/domain/ids.ts";
import { assembleCsr, csrInfo } from "../../lib/pki/csr.ts";
import { pemEncode } from "../../lib/pki/pem.ts";

/**
 * A device's key in a file, for trying out what wants one (a tutorial's `.pfx`). It can be copied, so it proves nothing of
 * a device: devices make their keys on the chip, and no CA ever has one of these.
 */
export interface SoftwareKey {
  readonly key: KeyObject;
  /** DER */
  readonly spki: Uint8Array;
}

const WARNING = "Test-only software key of a device: it can be copied. Never for production.";
const MAX_KEY_BYTES = 64 * 1024;

/** A P-256 key in this process's memory. */
export function newSoftwareKey(): SoftwareKey {
  return softwareKey(generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey);
}

/** Makes a P-256 key in a new file (0600). @throws CountersignError `already-exists`, `input-invalid` */
export function makeSoftwareKey(file: string): SoftwareKey {
  const made = newSoftwareKey();
  const pem = made.key.export({ type: "pkcs8", format: "pem" });
  try {
    writeFileSync(file, `${WARNING}\n${pem.toString()}`, { mode: 0o600, flag: "wx" });
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "EEXIST") {
      throw new CountersignError("already-exists", `${file} is there already: a key isn't overwritten`, { cause });
    }
    throw new CountersignError("input-invalid", `can't write ${file}: ${(cause as Error).message}`, { cause });
  }
  return made;
}

/** @throws CountersignError `input-invalid` when the file isn't a P-256 key's PEM */
export function openSoftwareKey(file: string): SoftwareKey {
  let key: KeyObject;
  try {
    const pem = readFileSync(file);
    if (pem.length > MAX_KEY_BYTES) throw new Error("it is too large");
    key = createPrivateKey(pem);
  } catch (cause) {
    const message = `${file} holds no private key (PEM, without a passphrase): ${(cause as Error).message}`;
    throw new CountersignError("input-invalid", message, { cause });
  }
  if (key.asymmetricKeyDetails?.namedCurve !== "prime256v1") {
    throw new CountersignError("input-invalid", `the key in ${file} is not a P-256 key`);
  }
  return softwareKey(key);
}

/** PEM. @throws CountersignError `input-invalid` for what is no device ID */
export function softwareCsr({ key, spki }: SoftwareKey, deviceId: string): string {
  const info = csrInfo({ cn: assertDeviceId(deviceId), spki });
  return pemEncode("CERTIFICATE REQUEST", assembleCsr(info, "ecdsa-p256-sha256", sign("sha256", info, key)));
}

function softwareKey(key: KeyObject): SoftwareKey {
  return { key, spki: new Uint8Array(createPublicKey(key).export({ type: "spki", format: "der" })) };
}
