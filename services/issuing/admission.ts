import { CountersignError, isCountersignError } from "../../lib/domain/errors.ts";
import type { DeviceRow } from "../../store/devices.ts";
import type { CheckedItem, Refused } from "./items.ts";
import { refusal } from "./items.ts";

/**
 * Which items of a batch, or of batches that are worked on together, go on, decided under the locks of their devices.
 * Pure: the rows come in, decisions go out. An item with the same CSR as an earlier one shares its fate.
 */

export interface KnownDevices {
  readonly byId: ReadonlyMap<string, DeviceRow>;
  readonly byKey: ReadonlyMap<string, DeviceRow>;
}

export function known(devices: readonly DeviceRow[]): KnownDevices {
  return {
    byId: new Map(devices.map((device) => [device.id, device])),
    byKey: new Map(devices.map((device) => [device.spkiSha256, device])),
  };
}

export interface Decisions {
  /** not done before: to be recorded or certified now */
  readonly fresh: CheckedItem[];
  /** done before with the same CSR in the same lot: the first answer holds */
  readonly again: CheckedItem[];
  /** same CSR as an item of `fresh` */
  readonly repeated: CheckedItem[];
  readonly refused: Refused[];
}

/** @throws CountersignError `device-id-other-key`, `key-other-device-id` */
function assertIdentity(item: CheckedItem, { byId, byKey }: KnownDevices): DeviceRow | undefined {
  const device = byId.get(item.deviceId);
  if (device !== undefined && device.spkiSha256 !== item.spkiSha256) throw otherKey(item.deviceId);
  const owner = byKey.get(item.spkiSha256);
  if (owner !== undefined && owner.id !== item.deviceId) throw otherId(item.deviceId, owner.id);
  return device;
}

function decide(
  items: readonly CheckedItem[],
  devices: KnownDevices,
  judge: (item: CheckedItem, device: DeviceRow | undefined) => "fresh" | "again",
): Decisions {
  const decisions: Decisions = { fresh: [], again: [], repeated: [], refused: [] };
  const ids = new Map<string, CheckedItem>();
  const keys = new Map<string, CheckedItem>();
  for (const item of items) {
    try {
      const device = assertIdentity(item, devices);
      const twin = ids.get(item.deviceId);
      const sameKey = keys.get(item.spkiSha256);
      if (twin !== undefined && twin.spkiSha256 !== item.spkiSha256) throw otherKey(item.deviceId);
      if (sameKey !== undefined && sameKey.deviceId !== item.deviceId) throw otherId(item.deviceId, sameKey.deviceId);
      if (twin !== undefined && twin.csrSha256 !== item.csrSha256) {
        throw new CountersignError(
          "already-exists",
          twin.batch === item.batch
            ? `the batch holds another CSR of device ${item.deviceId}`
            : `another CSR of device ${item.deviceId} came before this one: post that CSR to get its certificate`,
        );
      }
      const verdict = judge(item, device);
      if (verdict === "again") decisions.again.push(item);
      else if (twin !== undefined) decisions.repeated.push(item);
      else {
        decisions.fresh.push(item);
        ids.set(item.deviceId, item);
        keys.set(item.spkiSha256, item);
      }
    } catch (error) {
      if (!isCountersignError(error)) throw error;
      decisions.refused.push(refusal(item, error, item.deviceId));
    }
  }
  return decisions;
}

/** Items of a `built` batch. */
export function admitBuilt(
  items: readonly CheckedItem[],
  devices: KnownDevices,
  lot: string,
  closed: CountersignError | undefined,
): Decisions {
  return decide(items, devices, (item, device) => {
    if (device === undefined) {
      if (closed !== undefined) throw closed;
      return "fresh";
    }
    if (device.lot === lot && device.csrSha256 === item.csrSha256) return "again";
    throw new CountersignError(
      "already-exists",
      device.lot === lot
        ? `device ${item.deviceId} is in the lot with another CSR: post the one it was built with`
        : `device ${item.deviceId} was built in lot ${device.lot}`,
    );
  });
}

/**
 * Items of a `certify` batch.
 * @param issued CSR digest by device, of those that have an intent or a certificate for the lot's profile
 * @param closed why nothing new is certified now, if so; what was certified before is still answered
 * @param unattested why a device lacks the attestation that its lot asks for; undefined where the lot asks for none
 */
export function admitCertify(
  items: readonly CheckedItem[],
  devices: KnownDevices,
  lot: string,
  issued: ReadonlyMap<string, string>,
  closed: CountersignError | undefined,
  unattested?: (item: CheckedItem) => CountersignError | undefined,
): Decisions {
  return decide(items, devices, (item, device) => {
    if (device === undefined || device.lot !== lot) {
      throw new CountersignError(
        "device-not-in-lot",
        `device ${item.deviceId} is not in lot ${lot} here: build it, or receive it by a handoff, first`,
      );
    }
    const before = issued.get(item.deviceId);
    if (before === item.csrSha256) return "again";
    if (before !== undefined) {
      throw new CountersignError(
        "already-exists",
        `device ${item.deviceId} has its certificate already, for another CSR: post that CSR to get it again`,
      );
    }
    if (device.csrSha256 !== item.csrSha256) {
      throw new CountersignError(
        "device-not-in-lot",
        `the lot has device ${item.deviceId} with another CSR: post the one it was built with`,
      );
    }
    if (!device.held) {
      throw new CountersignError(
        "custody-conflict",
        `device ${item.deviceId} was handed on: its new holder certifies it`,
      );
    }
    if (closed !== undefined) throw closed;
    const lacking = unattested?.(item);
    if (lacking !== undefined) throw lacking;
    return "fresh";
  });
}

function otherKey(deviceId: string): CountersignError {
  return new CountersignError(
    "device-id-other-key",
    `the device ID ${deviceId} belongs to another key: a device keeps its key for good`,
  );
}

function otherId(deviceId: string, owner: string): CountersignError {
  return new CountersignError(
    "key-other-device-id",
    `the key of ${deviceId} belongs to device ${owner}: every device makes its own`,
  );
}
