import { createHash, randomBytes } from "node:crypto";
import { mkdirSync, renameSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { type DeviceKey, engineUri, makeDeviceKey, openDeviceKey } from "../../hsm/index.ts";
import { CountersignError, isCountersignError } from "../../lib/domain/errors.ts";
import { assertDeviceId } from "../../lib/domain/ids.ts";
import { pemEncode } from "../../lib/pki/pem.ts";
import { type ConnectResult, connectDevice, type DeviceConnection, tokenCredentials } from "./connect.ts";
import { chipOf, saveTray, type Tray } from "./tray.ts";

/**
 * What one device does with its own token. These run in a process whose SOFTHSM2_CONF is the tray's, see
 * `trayEnvironment`.
 */

/**
 * The device's CSR, signed on its chip, as PEM. With `makeKey` the token and its key are made first, where they aren't
 * there: what an interrupted run left is completed, a key that is there stays.
 */
export async function makeCsr(
  tray: Tray,
  deviceId: string,
  options: { makeKey: boolean },
): Promise<{ csr: string; keyId: string; created: boolean }> {
  const { key, created } = options.makeKey
    ? await madeKey(tray, deviceId)
    : { key: await openKey(tray, deviceId), created: false };
  try {
    const csr = pemEncode("CERTIFICATE REQUEST", await key.csr(deviceId));
    return { csr, keyId: createHash("sha256").update(key.spki).digest("hex"), created };
  } finally {
    await key.close();
  }
}

async function madeKey(tray: Tray, deviceId: string): Promise<{ key: DeviceKey; created: boolean }> {
  const chip = chipOf(tray, deviceId);
  enlist(tray, [deviceId]);
  makePin(chip.pin.file);
  const made = await makeDeviceKey(chip).catch(unlessThere);
  return made === undefined ? { key: await openKey(tray, deviceId), created: false } : { key: made, created: true };
}

/** Notes devices in the tray's list before their tokens are made, so that none is ever there unlisted. */
export function enlist(tray: Tray, deviceIds: readonly string[]): void {
  // A list with an ID that isn't one couldn't be read again.
  const missing = deviceIds.map(assertDeviceId).filter((id) => !tray.devices.includes(id));
  if (missing.length === 0) return;
  if (tray.tpm !== undefined && tray.devices.length + missing.length > 1) {
    throw new CountersignError(
      "state-conflict",
      `the TPM of ${tray.dir} is ${tray.devices[0] ?? "one device"}'s: a device has its own`,
    );
  }
  tray.devices.push(...missing);
  saveTray(tray);
}

/** A chip's PIN, once. Not forced to disk: a chip lost with the machine's power is a scrapped chip, made again. */
function makePin(file: string): void {
  try {
    writeFileSync(file, randomBytes(16).toString("base64url"), { flag: "wx", mode: 0o600 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  }
}

function unlessThere(error: unknown): undefined {
  if (isCountersignError(error) && error.code === "already-exists") return undefined;
  throw error;
}

/** Connects the device with the key in its token. @throws as `connectDevice`, and the token's errors */
export async function connectFromTray(
  tray: Tray,
  connection: Omit<DeviceConnection, "credentials">,
): Promise<ConnectResult> {
  if (tray.tpm !== undefined) {
    // Not opened here: the TPM is the key server's, through which the engine reaches it.
    const uri = engineUri(chipOf(tray, connection.deviceId));
    return connectDevice({ ...connection, credentials: tokenCredentials(uri) });
  }
  const key = await openKey(tray, connection.deviceId);
  // The engine opens the token by itself; this was to refuse a missing key by its name.
  await key.close();
  return connectDevice({ ...connection, credentials: tokenCredentials(key.engineUri) });
}

async function openKey(tray: Tray, deviceId: string): Promise<DeviceKey> {
  if (!tray.devices.includes(deviceId)) {
    throw new CountersignError(
      "hsm-token-missing",
      `${tray.dir} has no token of ${deviceId}; make it with device keygen`,
    );
  }
  return openDeviceKey(chipOf(tray, deviceId));
}

/** Whole or not at all. */
export function writeWhole(file: string, text: string): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(`${file}.new`, text);
  renameSync(`${file}.new`, file);
}
