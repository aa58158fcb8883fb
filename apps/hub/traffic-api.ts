import { z } from "zod";
import { toBase64 } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { DEVICE_ID } from "../../lib/domain/ids.ts";
import type { Db } from "../../store/db.ts";
import { findDevice } from "../../store/hub-devices.ts";
import { listMessages, purgeMessages, type StoredMessage, type Twin } from "../../store/hub-traffic.ts";
import { requireClient } from "../http/client.ts";
import { parseInput } from "../http/input.ts";
import type { HttpsServer } from "../http/server.ts";
import type { Traffic } from "./traffic.ts";

/** As IoT Hub limits them. */
const MAX_MESSAGE_BYTES = 64 * 1024;
const HOUR = 3600;

const NO_NUL = /^[^\0]*$/;
const Name = z
  .string()
  .min(1)
  .max(128)
  .regex(NO_NUL)
  .refine((name) => !name.startsWith("$."), "must not begin with $.");
const DeviceParams = z.strictObject({ id: z.string().regex(DEVICE_ID, "not a device ID") });
const MethodParams = DeviceParams.extend({
  name: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/, "1 to 64 of A-Z a-z 0-9 . _ -"),
});
const MessageBody = z.strictObject({
  /** base64 */
  body: z
    .base64()
    .max(Math.ceil(MAX_MESSAGE_BYTES / 3) * 4)
    .default(""),
  properties: z
    .record(Name, z.string().max(1024).regex(NO_NUL))
    .refine((all) => Object.keys(all).length <= 32, "at most 32")
    .default({}),
  messageId: z.string().min(1).max(128).regex(NO_NUL).optional(),
  contentType: z.string().min(1).max(128).regex(NO_NUL).optional(),
  contentEncoding: z.string().min(1).max(128).regex(NO_NUL).optional(),
  expirySeconds: z
    .int()
    .min(1)
    .max(48 * HOUR)
    .default(HOUR),
});
const TwinBody = z.strictObject({ desired: z.unknown() });
const InvokeBody = z.strictObject({
  payload: z.unknown(),
  timeoutSeconds: z.number().min(1).max(300).default(30),
});

/** The part of the management API that talks to devices. */
export function trafficApi(server: HttpsServer, hub: { db: Db; traffic: Traffic }): void {
  const { db, traffic } = hub;
  const operator = { onRequest: requireClient("operator") };
  const deviceOf = async (params: unknown): Promise<string> => {
    const { id } = parseInput(DeviceParams, params, "path");
    if ((await findDevice(db, id)) === undefined)
      throw new CountersignError("not-found", `the hub has no device ${id}`);
    return id;
  };

  server.post("/api/v1/devices/:id/messages", operator, async (request, reply) => {
    const id = await deviceOf(request.params);
    const sent = parseInput(MessageBody, request.body, "request body");
    const system = {
      ...(sent.messageId === undefined ? {} : { "$.mid": sent.messageId }),
      ...(sent.contentType === undefined ? {} : { "$.ct": sent.contentType }),
      ...(sent.contentEncoding === undefined ? {} : { "$.ce": sent.contentEncoding }),
    };
    const expiresAt = new Date(Date.now() + sent.expirySeconds * 1000);
    const body = Buffer.from(sent.body, "base64");
    return reply
      .code(202)
      .send(shown(await traffic.send(id, { system, properties: sent.properties, body, expiresAt })));
  });
  server.get("/api/v1/devices/:id/messages", operator, async (request) => {
    const id = await deviceOf(request.params);
    return { messages: (await listMessages(db, id)).map(shown) };
  });
  server.delete("/api/v1/devices/:id/messages", operator, async (request) => {
    const id = await deviceOf(request.params);
    return { purged: await purgeMessages(db, id) };
  });

  server.get("/api/v1/devices/:id/twin", operator, async (request) => {
    const id = await deviceOf(request.params);
    return shownTwin(id, await traffic.twin(id));
  });
  server.patch("/api/v1/devices/:id/twin", operator, async (request) => {
    const id = await deviceOf(request.params);
    const { desired } = parseInput(TwinBody, request.body, "request body");
    return shownTwin(id, await traffic.desire(id, desired));
  });

  server.post("/api/v1/devices/:id/methods/:name", operator, async (request) => {
    const { name } = parseInput(MethodParams, request.params, "path");
    const id = await deviceOf({ id: (request.params as { id: string }).id });
    const { payload, timeoutSeconds } = parseInput(InvokeBody, request.body, "request body");
    return traffic.invoke(id, name, payload, timeoutSeconds * 1000);
  });
}

function shown(message: StoredMessage): Record<string, unknown> {
  return { ...message, body: toBase64(message.body) };
}

function shownTwin(deviceId: string, twin: Twin): Record<string, unknown> {
  return { deviceId, ...twin };
}
