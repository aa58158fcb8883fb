import { z } from "zod";
import { toBase64 } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { DEVICE_ID } from "../../lib/domain/ids.ts";
import type { Db } from "../../store/db.ts";
import { findCa, type HubCa, listCas } from "../../store/hub-cas.ts";
import {
  createDevice,
  findDevice,
  type HubDevice,
  listDevices,
  removeDevice,
  setDeviceState,
  setDeviceStates,
} from "../../store/hub-devices.ts";
import { countTelemetry, listTelemetry } from "../../store/hub-telemetry.ts";
import { hubTotals } from "../../store/hub.ts";
import { countAlarms } from "../../store/hub-monitor.ts";
import { clientOf, requireClient } from "../http/client.ts";
import { parseInput } from "../http/input.ts";
import type { HttpsServer } from "../http/server.ts";
import type { MqttListener } from "./mqtt.ts";
import type { Registry } from "./registry.ts";
import { offer, verify } from "./registration.ts";

export const CaName = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/, "1 to 64 of A-Z a-z 0-9 . _ -");
const DeviceId = z.string().regex(DEVICE_ID, "not a device ID");
export const Pem = z.string().min(1).max(20_000);
const OfferBody = z.strictObject({ name: CaName, certificate: Pem.optional(), succeeds: CaName.optional() });
const VerifyBody = z.strictObject({ ca: Pem, verification: Pem });
export const CaParams = z.strictObject({ name: CaName });
export const DeviceParams = z.strictObject({ id: DeviceId });
export const EnrolmentBody = z.strictObject({ enrolment: z.enum(["first-connect", "registered"]) });
export const UnloggedBody = z.strictObject({ unlogged: z.enum(["allow", "alarm", "refuse"]) });
const CreateBody = z.strictObject({ deviceId: DeviceId });
const MAX_AT_ONCE = 20_000;
/** of the IDs of one request: more make a log line that nobody reads, or that is cut off on its way */
const MAX_LOGGED = 20;
const StatesBody = z.strictObject({
  deviceIds: z.array(DeviceId).min(1).max(MAX_AT_ONCE),
  state: z.enum(["enabled", "disabled"]),
});
const Page = z.strictObject({
  after: z.string().max(64).default(""),
  limit: z.coerce.number().int().min(1).max(1000).default(100),
});
const Last = z.strictObject({ limit: z.coerce.number().int().min(1).max(1000).default(20) });

/** The management API, `/api/v1`: for the hub's operators only. */
export function managementApi(
  server: HttpsServer,
  hub: { db: Db; registry: Registry; mqtt: MqttListener; codeHours: number },
): void {
  const { db, registry, mqtt } = hub;
  const operator = { onRequest: requireClient("operator") };

  server.get("/api/v1/status", operator, async () => ({
    mqttPort: mqtt.port,
    connected: mqtt.connected,
    refusals: mqtt.refusals,
    ...(await hubTotals(db)),
    alarms: await countAlarms(db),
  }));

  server.post("/api/v1/cas", operator, async (request, reply) => {
    const body = parseInput(OfferBody, request.body, "request body");
    const ca = await offer(db, body, { hours: hub.codeHours, now: new Date() });
    request.log.info({ ca: ca.name }, "verification code given");
    return reply.code(201).send(shownCa(ca));
  });
  server.get("/api/v1/cas", operator, async () => ({ cas: (await listCas(db)).map(shownCa) }));
  server.get("/api/v1/cas/:name", operator, async (request) => {
    const { name } = parseInput(CaParams, request.params, "path");
    return shownCa(found(await findCa(db, name), `CA ${name}`));
  });
  server.post("/api/v1/cas/:name/verify", operator, async (request) => {
    const { name } = parseInput(CaParams, request.params, "path");
    const body = parseInput(VerifyBody, request.body, "request body");
    const ca = await verify(db, { name, ...body }, new Date());
    await registry.reload();
    request.log.info({ ca: name, sha256: ca.sha256 }, "CA verified");
    return shownCa(ca);
  });

  server.get("/api/v1/devices", operator, async (request) => {
    const page = parseInput(Page, request.query, "query");
    const devices = await listDevices(db, page);
    const last = devices.at(-1);
    return { devices, next: devices.length === page.limit && last !== undefined ? last.deviceId : null };
  });
  server.post("/api/v1/devices", operator, async (request, reply) => {
    const { deviceId } = parseInput(CreateBody, request.body, "request body");
    return reply.code(201).send(await createDevice(db, deviceId));
  });
  server.get("/api/v1/devices/:id", operator, async (request) => {
    const { id } = parseInput(DeviceParams, request.params, "path");
    return shownDevice(found(await findDevice(db, id), `device ${id}`));
  });
  for (const [verb, state] of [
    ["disable", "disabled"],
    ["enable", "enabled"],
  ] as const) {
    server.post(`/api/v1/devices/:id/${verb}`, operator, async (request) => {
      const { id } = parseInput(DeviceParams, request.params, "path");
      const device = found(await setDeviceState(db, id, state), `device ${id}`);
      await registry.recheck([id]);
      return shownDevice(device);
    });
  }
  server.post("/api/v1/device-states", { ...operator, bodyLimit: 2 << 20 }, async (request) => {
    const { deviceIds, state } = parseInput(StatesBody, request.body, "request body");
    const here = await setDeviceStates(db, deviceIds, state);
    await registry.recheck([...here]);
    const ids = [...here].slice(0, MAX_LOGGED);
    request.log.warn({ devices: here.size, ids, by: clientOf(request).commonName }, `devices ${state}`);
    return { state, set: here.size, unknown: deviceIds.filter((id) => !here.has(id)) };
  });
  server.delete("/api/v1/devices/:id", operator, async (request, reply) => {
    const { id } = parseInput(DeviceParams, request.params, "path");
    found((await removeDevice(db, id)) || undefined, `device ${id}`);
    await registry.recheck([id]);
    return reply.code(204).send();
  });
  server.get("/api/v1/devices/:id/telemetry", operator, async (request) => {
    const { id } = parseInput(DeviceParams, request.params, "path");
    const { limit } = parseInput(Last, request.query, "query");
    const messages = await listTelemetry(db, id, limit);
    return { messages: messages.map((message) => ({ ...message, body: toBase64(message.body) })) };
  });

  async function shownDevice(device: HubDevice): Promise<HubDevice & { telemetry: number }> {
    return { ...device, telemetry: await countTelemetry(db, device.deviceId) };
  }
}

/** The code is shown while it is of use: to operators only, who must put it into a certificate. */
export function shownCa(ca: HubCa): Record<string, unknown> {
  const { name, state, sha256, createdAt, verifiedAt, disabledAt, enrolment, unlogged, lineage } = ca;
  const open = state === "unverified" ? { code: ca.code, codeExpiresAt: ca.codeExpiresAt } : {};
  return { name, state, sha256, createdAt, verifiedAt, disabledAt, enrolment, unlogged, lineage, ...open };
}

export function found<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw new CountersignError("not-found", `the hub has no ${what}`);
  return value;
}
