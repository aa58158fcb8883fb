import { createHash } from "node:crypto";
import { CountersignError } from "../lib/domain/errors.ts";
import { assertDeviceId } from "../lib/domain/ids.ts";
import type { Signer } from "../lib/domain/signing.ts";
import { assembleCsr, csrInfo } from "../lib/pki/csr.ts";
import type { PinSource } from "./pin.ts";
import { initToken, tokenExists } from "./token-admin.ts";
import { type Token, openToken } from "./token.ts";
import { formatPkcs11Uri } from "./uri.ts";

/**
 * What a device's chip does: a token of its own, in it one P-256 key that never leaves it. A line's tray holds many
 * such tokens in one module, each with its own PIN.
 */
export interface Chip {
  /** absolute path of the PKCS#11 module */
  module: string;
  /** the token's label, see `chipTokenLabel` */
  token: string;
  pin: PinSource;
}

export const DEVICE_KEY_LABEL = "device";

/** A token label has 32 bytes and a device ID up to 64: longer IDs are named by the start of their SHA-256. */
export function chipTokenLabel(deviceId: string): string {
  assertDeviceId(deviceId);
  if (deviceId.length <= 32) return deviceId;
  return `dev-${createHash("sha256").update(deviceId).digest("hex").slice(0, 28)}`;
}

/**
 * Makes the chip's token, with a security officer's PIN that nobody keeps, and its key. A chip that a crash left with a
 * token and no key is completed.
 * @throws CountersignError `already-exists`: a chip makes its key once
 */
export async function makeDeviceKey(chip: Chip): Promise<DeviceKey> {
  if (!tokenExists(chip.module, chip.token)) {
    await initToken({ module: chip.module, label: chip.token, pin: chip.pin });
  }
  return withToken(chip, async (token) => {
    if (await token.hasKey(DEVICE_KEY_LABEL)) {
      throw new CountersignError("already-exists", `chip "${chip.token}" has made its key already: open it instead`);
    }
    return token.generateKey({ label: DEVICE_KEY_LABEL, algorithm: "ec-p256" });
  });
}

/** @throws CountersignError `hsm-token-missing`, `hsm-key-missing`, `hsm-pin-wrong` */
export async function openDeviceKey(chip: Chip): Promise<DeviceKey> {
  return withToken(chip, (token) => token.signer(DEVICE_KEY_LABEL));
}

async function withToken(chip: Chip, key: (token: Token) => Promise<Signer>): Promise<DeviceKey> {
  const uri = formatPkcs11Uri({ token: chip.token });
  const token = await openToken({ module: chip.module, uri, pin: chip.pin, sessions: 1 });
  try {
    return new DeviceKey(chip, token, await key(token));
  } catch (error) {
    await token.close();
    throw error;
  }
}

/** As {@link DeviceKey.engineUri}, of a token that isn't opened for it. */
export function engineUri({ token, pin }: Chip): string {
  if (!("file" in pin)) {
    throw new CountersignError("input-invalid", `OpenSSL's engine needs the PIN of "${token}" in a file`);
  }
  return formatPkcs11Uri({ token, object: DEVICE_KEY_LABEL, type: "private", pinSource: `file:${pin.file}` });
}

/** A device's key, its token open. Close it when done: a process holds a bounded number of sessions. */
export class DeviceKey {
  readonly chip: Chip;
  readonly signer: Signer;
  readonly #token: Token;

  /** Use `makeDeviceKey` or `openDeviceKey`. */
  constructor(chip: Chip, token: Token, signer: Signer) {
    this.chip = chip;
    this.#token = token;
    this.signer = signer;
  }

  /** DER SubjectPublicKeyInfo */
  get spki(): Uint8Array {
    return this.signer.spki;
  }

  /**
   * The key's URI for OpenSSL's engine (a TLS client). With a PIN file it says where that file is, never the PIN.
   * @throws CountersignError `input-invalid` when the PIN comes from a variable, which the engine can't read
   */
  get engineUri(): string {
    return engineUri(this.chip);
  }

  /**
   * A CSR made and signed on the chip (RFC 2986), its subject's CN the device ID.
   * @returns DER
   */
  async csr(deviceId: string): Promise<Uint8Array> {
    const info = csrInfo({ cn: assertDeviceId(deviceId), spki: this.spki });
    return assembleCsr(info, this.signer.algorithm, await this.signer.sign(info));
  }

  async close(): Promise<void> {
    await this.#token.close();
  }
}
