import { randomUUID } from "node:crypto";
import type { EventEmitter } from "node:events";
import { Aedes, type AuthenticateError, type Client, type PublishPacket } from "aedes";
import { CountersignError, errorCodeOf } from "../../lib/domain/errors.ts";
import { DEVICE_ID } from "../../lib/domain/ids.ts";
import type { Db } from "../../store/db.ts";
import { enrollDevice } from "../../store/hub-devices.ts";
import { enrollmentGroupOf } from "../../store/hub-enrollment.ts";
import type { Admission } from "./admission.ts";
import { type DoorOptions, listenDevices, type Visitor } from "./device-door.ts";
import { forwardOwn, sendOwn } from "./mqtt-link.ts";
import { MqttSessions } from "./mqtt-sessions.ts";
import { PacketGuard } from "./packet-guard.ts";

export interface DpsOptions extends DoorOptions {
  idScope: string;
  assignedHub: string;
  admission: Admission;
  db: Db;
}

const ANSWERS = "$dps/registrations/res/#";
const MAX_PACKET_BYTES = 64 * 1024;
/** A registration is a matter of seconds. */
const MAX_VISIT_MS = 120_000;
const REGISTER = /^\$dps\/registrations\/PUT\/iotdps-register\/\?\$rid=([A-Za-z0-9_.:-]{1,128})$/;
const STATUS =
  /^\$dps\/registrations\/GET\/iotdps-get-operationstatus\/\?\$rid=([A-Za-z0-9_.:-]{1,128})&operationId=([A-Za-z0-9-]{1,64})$/;

interface Session {
  guard: PacketGuard;
  visitor: Visitor;
  registrationId?: string;
  /** The one registration of this visit, once asked for. */
  operation?: { id: string; state: Record<string, unknown> };
}

/** The registration ID in a DPS username, `{idScope}/registrations/{id}/api-version=...`; undefined in any other. */
export function registrationOfUsername(username: string, idScope: string): string | undefined {
  if (username.length > 1024) return undefined;
  const match = /^([A-Za-z0-9]{1,32})\/registrations\/([^/]{1,64})\/(?:.*&)?api-version=/.exec(username);
  const id = match?.[1] === idScope ? match[2] : undefined;
  return id !== undefined && DEVICE_ID.test(id) ? id : undefined;
}

/**
 * Device provisioning over MQTT with certificates: a device of an enrollment group's CA becomes known to the hub and is
 * told where it is. A broker of its own: clients have the same ID here and at the hub.
 */
export async function listenDps(options: DpsOptions): Promise<{ readonly port: number; close(): Promise<void> }> {
  const { logger, db } = options;
  const sessions = new WeakMap<object, Session>();
  const broker = await Aedes.createBroker({
    persistence: new MqttSessions(),
    connectTimeout: options.connectTimeoutMs,
    drainTimeout: 20_000,
    keepaliveLimit: 1_800,
    maxClientsIdLength: 64,
    maxTopicLevels: 8,
    queueLimit: 42,
    preConnect: (client, packet, callback) => callback(null, sessions.has(client.conn) && packet.will === undefined),
    authenticate(client, username, _password, done) {
      const session = sessions.get(client.conn);
      if (session === undefined) return done(refused(), false);
      const { visitor } = session;
      if (door.limited(visitor)) {
        door.refuse(visitor, "hub-rate-limited", "too many refusals");
        return done(refused(), false);
      }
      identify(client, session, String(username ?? "")).then(
        (id) => {
          door.admitted(visitor, id);
          session.registrationId = id;
          done(null, true);
        },
        (error: unknown) => {
          door.refuseFor(visitor, error);
          done(refused(), false);
        },
      );
    },
    authorizePublish(client, packet, done) {
      const session = client === null ? undefined : sessions.get(client.conn);
      if (client === null || session?.registrationId === undefined) return done(new Error("not admitted"));
      packet.retain = false;
      said(client, session, packet).then(
        () => done(null),
        (error: unknown) => {
          door.refuseFor(session.visitor, error);
          done(error instanceof Error ? error : new Error("refused"));
        },
      );
    },
    authorizeSubscribe: (_client, subscription, callback) =>
      callback(null, subscription.topic === ANSWERS ? subscription : null),
    authorizeForward: (_client, packet) => forwardOwn(packet),
  });
  (broker as EventEmitter).on("error", (error: unknown) => logger.error({ err: error }, "provisioning broker"));
  for (const event of ["clientError", "connectionError"] as const) broker.on(event, () => undefined);

  async function identify(client: Client, { visitor }: Session, username: string): Promise<string> {
    const { socket } = visitor;
    if (socket.isSessionReused()) throw new CountersignError("hub-no-path", "resumed TLS sessions aren't accepted");
    const id = registrationOfUsername(username, options.idScope);
    if (id === undefined)
      throw new CountersignError("hub-refused", "the username has not DPS's form, or another scope");
    if (client.id !== id) throw new CountersignError("hub-device-mismatch", "client ID and username differ");
    await options.admission.identify(visitor.chain, id, new Date());
    return id;
  }

  async function said(client: Client, session: Session, packet: PublishPacket): Promise<void> {
    const register = packet.qos === 2 ? undefined : REGISTER.exec(packet.topic)?.[1];
    if (register !== undefined) {
      try {
        session.operation ??= { id: randomUUID(), state: await enroll(session) };
      } catch (error) {
        if (errorCodeOf(error) === "internal") throw error;
        door.refuseFor(session.visitor, error);
        const message = error instanceof Error ? error.message : "refused";
        return answer(client, `401/?$rid=${register}`, { errorCode: 401_002, trackingId: randomUUID(), message });
      }
      const body = { operationId: session.operation.id, status: "assigning" };
      return answer(client, `202/?$rid=${register}&retry-after=1`, body);
    }
    const [, rid, operationId] = (packet.qos === 2 ? null : STATUS.exec(packet.topic)) ?? [];
    if (rid === undefined) throw new CountersignError("hub-refused", "publish refused");
    if (session.operation?.id !== operationId) {
      const body = { errorCode: 404_201, trackingId: randomUUID(), message: "no such operation" };
      return answer(client, `404/?$rid=${rid}`, body);
    }
    const body = { operationId, status: "assigned", registrationState: session.operation?.state };
    answer(client, `200/?$rid=${rid}`, body);
  }

  /** Judged again: what was revoked since the connect counts. */
  async function enroll({ visitor, registrationId = "" }: Session): Promise<Record<string, unknown>> {
    const device = await options.admission.identify(visitor.chain, registrationId, new Date());
    const group = await enrollmentGroupOf(db, device.lineage);
    if (group?.state !== "enabled") {
      throw new CountersignError("hub-refused", `the CA ${device.caName} has no enabled enrollment group`);
    }
    await enrollDevice(db, device);
    const now = new Date().toISOString();
    logger.info({ registrationId, group: group.name }, "device provisioned");
    return {
      registrationId,
      deviceId: registrationId,
      assignedHub: options.assignedHub,
      status: "assigned",
      substatus: "initialAssignment",
      createdDateTimeUtc: now,
      lastUpdatedDateTimeUtc: now,
      etag: Buffer.from(randomUUID()).toString("base64"),
      x509: { enrollmentGroupId: group.name },
    };
  }

  const door = await listenDevices(options, (visitor) => {
    const guard = new PacketGuard(visitor.socket, { firstPacketBytes: 4096, packetBytes: MAX_PACKET_BYTES });
    const timer = setTimeout(() => guard.destroy(), MAX_VISIT_MS);
    guard.once("close", () => clearTimeout(timer));
    sessions.set(guard, { guard, visitor });
    broker.handle(guard);
  });
  return {
    port: door.port,
    close: () => door.close(() => new Promise((resolve) => broker.close(() => resolve()))),
  };
}

function answer(client: Client, topic: string, body: unknown): void {
  sendOwn(client, `$dps/registrations/res/${topic}`, Buffer.from(JSON.stringify(body)));
}

function refused(): AuthenticateError {
  return Object.assign(new Error("not authorized"), { returnCode: 5 }) as AuthenticateError;
}
