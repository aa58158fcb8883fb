import { z } from "zod";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { pemEncode } from "../../../lib/pki/pem.ts";
import { deviceId, lotId } from "../../../lib/records/primitives.ts";
import { findDevice, listDevices, type DeviceView } from "../../../store/devices.ts";
import { getLot } from "../../../store/lots.ts";
import { requireClient } from "../../http/client.ts";
import { parseInput } from "../../http/input.ts";
import type { HttpsServer } from "../../http/server.ts";
import { chainsPem, type LotDeps } from "./lot-deps.ts";

const deviceParams = z.strictObject({ id: deviceId });
const listQuery = z.strictObject({
  lot: lotId,
  afterSlot: z.coerce.number().int().min(0).default(0),
  limit: z.coerce.number().int().min(1).max(1000).default(500),
});

/** What this site knows of a device. A chain appears when its record is under a signed checkpoint. */
export function registerDevices(app: HttpsServer, { db }: LotDeps): void {
  const readers = { onRequest: requireClient("operator", "station", "technician") };

  app.get("/api/v1/devices/:id", readers, async (request) => {
    const { id } = parseInput(deviceParams, request.params, "path");
    const device = await findDevice(db, id);
    if (device === undefined) throw new CountersignError("not-found", `this site knows no device ${id}`);
    return view(device, await chainsPem(db));
  });

  app.get("/api/v1/devices", readers, async (request) => {
    const { lot, afterSlot, limit } = parseInput(listQuery, request.query, "query");
    await getLot(db, lot);
    const chainOf = await chainsPem(db);
    const devices = await listDevices(db, lot, { afterSlot, limit });
    return { devices: devices.map((device) => view(device, chainOf)) };
  });
}

function view(device: DeviceView, chainOf: (device: DeviceView) => string | null): Record<string, unknown> {
  const { id, lot, slot, stage, held, spkiSha256, csrSha256, csr, receipt, imagePath } = device;
  return {
    deviceId: id,
    lot,
    slot,
    state: held ? stage : "released",
    spkiSha256,
    csrSha256,
    csr: csr === null ? null : pemEncode("CERTIFICATE REQUEST", csr),
    chain: chainOf(device),
    receipt,
    imagePath,
    handoff: device.handoff,
    lastAct: device.prev,
  };
}
