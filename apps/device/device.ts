import { mkdirSync, renameSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { createPinFile, type DeviceKey, makeDeviceKey, openDeviceKey } from "../../hsm/index.ts";
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
 * Makes the device's token and key. What an interrupted run left is completed; a key that is there stays.
 * @returns whether the key is new
 */
export async function makeKey(tray: Tray, deviceId: string): Promise<boolean> {
  const chip = chipOf(tray, assertDeviceId(deviceId));
  if (!tray.devices.includes(deviceId)) {
    tray.devices.push(deviceId);
    saveTray(tray);
  }
  try {
    if (!("file" in chip.pin)) throw new CountersignError("internal", "a chip's PIN is in a file");
    await createPinFile(chip.pin.file);
  } catch (error) {
    if (!isCountersignError(error) || error.code !== "already-exists") throw error;
  }
  try {
    await (await makeDeviceKey(chip)).close();
    return true;
  } catch (error) {
    if (!isCountersignError(error) || error.code !== "already-exists") throw error;
    await (await openDeviceKey(chip)).close();
    return false;
  }
}

/** The device's CSR, signed on its chip, as PEM. */
export async function makeCsr(tray: Tray, deviceId: string): Promise<string> {
  return withKey(tray, deviceId, async (key) => pemEncode("CERTIFICATE REQUEST", await key.csr(deviceId)));
}

/** Connects the device with the key in its token. @throws as `connectDevice`, and the token's errors */
export async function connectFromTray(
  tray: Tray,
  connection: Omit<DeviceConnection, "credentials">,
): Promise<ConnectResult> {
  const engineUri = await withKey(tray, connection.deviceId, async (key) => key.engineUri);
  return connectDevice({ ...connection, credentials: tokenCredentials(engineUri) });
}

async function withKey<T>(tray: Tray, deviceId: string, work: (key: DeviceKey) => Promise<T>): Promise<T> {
  if (!tray.devices.includes(deviceId)) {
    throw new CountersignError(
      "hsm-token-missing",
      `${tray.dir} has no token of ${deviceId}; make it with device keygen`,
    );
  }
  const key = await openDeviceKey(chipOf(tray, deviceId));
  try {
    return await work(key);
  } finally {
    await key.close();
  }
}

/** Whole or not at all. */
export function writeWhole(file: string, text: string): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(`${file}.new`, text);
  renameSync(`${file}.new`, file);
}
