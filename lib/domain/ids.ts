import { CountersignError } from "./errors.ts";

/** Device IDs: also file names, topic segments and CN values, hence no path, space or control characters. */
export const DEVICE_ID = /^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$/;
export const PARTY_ID = /^[a-z0-9][a-z0-9-]{0,38}$/;
export const LOT_ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;

/** @throws CountersignError `device-id-invalid` */
export function assertDeviceId(id: string): string {
  if (!DEVICE_ID.test(id)) {
    const shown = JSON.stringify(id.slice(0, 80));
    throw new CountersignError(
      "device-id-invalid",
      `device ID ${shown} is not allowed: use 1 to 64 of A-Z a-z 0-9 . _ : - and start with a letter or digit`,
    );
  }
  return id;
}
