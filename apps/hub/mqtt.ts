import type { EventEmitter } from "node:events";
import { Aedes, type AuthenticateError, type Client } from "aedes";
import { CountersignError, errorCodeOf } from "../../lib/domain/errors.ts";
import type { Db } from "../../store/db.ts";
import type { Admission } from "./admission.ts";
import { type DoorOptions, listenDevices, type Visitor } from "./device-door.ts";
import { scopeOfTopic } from "./groups.ts";
import { forwardOwn, MqttLink } from "./mqtt-link.ts";
import { MqttSessions } from "./mqtt-sessions.ts";
import { PacketGuard } from "./packet-guard.ts";
import type { TelemetryWriter } from "./telemetry.ts";
import { deviceIdOfUsername } from "./topics.ts";
import type { Traffic } from "./traffic.ts";

export interface MqttOptions extends DoorOptions {
  maxPacketBytes: number;
  drainTimeoutMs: number;
  admission: Admission;
  telemetry: TelemetryWriter;
  traffic: Traffic;
  /** Where subscriptions outlive connections. */
  db: Db;
}

export interface MqttListener {
  readonly port: number;
  readonly connected: number;
  /** Refusals since the start, by reason. */
  readonly refusals: Readonly<Record<string, number>>;
  close(): Promise<void>;
}

/** MQTT return codes (3.1.1 section 3.2.2.3). */
const SERVER_UNAVAILABLE = 3;
const NOT_AUTHORIZED = 5;

/** A session per connection; its device is known once admitted. */
interface Session {
  guard: PacketGuard;
  visitor: Visitor;
  hasWill: boolean;
  deviceId?: string;
  link?: MqttLink;
}

/** The device's front door: IoT Hub's MQTT 3.1.1 over TLS. */
export async function listenMqtt(options: MqttOptions): Promise<MqttListener> {
  const { logger } = options;
  const sessions = new WeakMap<object, Session>();
  const connected = new Map<string, Session>();
  const broker = await Aedes.createBroker({
    persistence: new MqttSessions(options.db, (client, messageId) =>
      sessions.get((client as Client).conn)?.link?.acknowledged(messageId),
    ),
    connectTimeout: options.connectTimeoutMs,
    drainTimeout: options.drainTimeoutMs,
    keepaliveLimit: 1_800,
    maxClientsIdLength: 64,
    maxTopicLevels: 8,
    queueLimit: 42,

    preConnect(client, packet, callback) {
      const session = sessions.get(client.conn);
      if (session !== undefined) session.hasWill = packet.will !== undefined;
      callback(null, session !== undefined);
    },

    authenticate(client, username, _password, done) {
      const session = sessions.get(client.conn);
      if (session === undefined) return done(authError(NOT_AUTHORIZED), false);
      const { visitor } = session;
      // A retry loop gets its answer without another path validation.
      if (door.limited(visitor)) {
        door.refuse(visitor, "hub-rate-limited", "too many refusals");
        return done(authError(NOT_AUTHORIZED), false);
      }
      admit(client, session, username).then(
        (deviceId) => {
          // It left while it was judged: nothing would take it off the list again.
          if (session.guard.destroyed) return done(null, false);
          door.admitted(visitor, deviceId);
          // Thousands stay connected, and nobody asks again.
          visitor.chain = [];
          session.deviceId = deviceId;
          session.link = new MqttLink(client, deviceId);
          connected.set(deviceId, session);
          session.guard.once("close", () => {
            if (connected.get(deviceId) === session) connected.delete(deviceId);
          });
          done(null, true);
        },
        (error: unknown) => {
          const reason = door.refuseFor(visitor, error);
          done(authError(reason === "internal" ? SERVER_UNAVAILABLE : NOT_AUTHORIZED), false);
        },
      );
    },

    authorizePublish(client, packet, done) {
      const session = client === null ? undefined : sessions.get(client.conn);
      const link = session?.link;
      if (session === undefined || link === undefined) return done(new Error("not admitted"));
      // The broker keeps retained messages in memory for ever; telemetry is kept in the database only.
      packet.retain = false;
      // PUBACK is written when this calls back: what was said is committed by then.
      const scope = scopeOfTopic(packet.topic);
      if (!options.admission.registry.allows(session.deviceId ?? "", scope)) {
        door.refuse(session.visitor, "hub-scope-refused", `its group may not use ${scope}`, session.deviceId);
        return done(new Error("publish refused"));
      }
      link.said(packet, options).then(
        () => done(null),
        (error: unknown) => {
          const { deviceId } = session;
          if (errorCodeOf(error) === "hub-refused") {
            door.refuse(session.visitor, "hub-topic-refused", "publish refused", deviceId);
          } else logger.error({ err: error, deviceId }, "what a device said is not stored");
          done(error instanceof Error ? error : new Error("not stored"));
        },
      );
    },

    // Null answers SUBACK 128.
    authorizeSubscribe(client, subscription, callback) {
      const session = sessions.get(client.conn);
      const scope = scopeOfTopic(subscription.topic);
      if (session !== undefined && !options.admission.registry.allows(session.deviceId ?? "", scope)) {
        door.refuse(session.visitor, "hub-scope-refused", `its group may not use ${scope}`, session.deviceId);
        return callback(null, null);
      }
      if (session?.link?.hear(subscription.topic, subscription.qos)) {
        // QoS 2 is granted as 1.
        if (subscription.qos === 2) subscription.qos = 1;
        return callback(null, subscription);
      }
      if (session !== undefined)
        door.refuse(session.visitor, "hub-topic-refused", "subscribe refused", session.deviceId);
      callback(null, null);
    },
    authorizeForward: (_client, packet) => forwardOwn(packet),
  });

  async function admit(client: Client, session: Session, username: string | undefined): Promise<string> {
    const { socket } = session.guard;
    if (socket.isSessionReused()) throw new CountersignError("hub-no-path", "resumed TLS sessions aren't accepted");
    if (session.hasWill) throw new CountersignError("hub-refused", "this hub takes no will messages");
    // aedes hands the username over as the bytes of the packet in some versions.
    const deviceId = deviceIdOfUsername(String(username ?? ""));
    if (deviceId === undefined) throw new CountersignError("hub-refused", "the username has not IoT Hub's form");
    if (client.id !== deviceId) {
      throw new CountersignError("hub-device-mismatch", "client ID and username name different devices");
    }
    await options.admission.admit(session.visitor.chain, deviceId, new Date(), session.guard);
    return deviceId;
  }

  broker.on("clientReady", (client) => {
    const session = sessions.get(client.conn);
    if (session?.link === undefined || session.deviceId === undefined) return;
    const { deviceId, link, guard } = session;
    logger.info({ deviceId, source: session.visitor.source }, "device connected");
    if (guard.destroyed) return;
    guard.once("close", () => {
      options.traffic.detach(deviceId, link);
      link.closed();
    });
    options.traffic.attach(deviceId, link);
  });
  broker.on("subscribe", (_subscriptions, client) => {
    const deviceId = sessions.get(client.conn)?.deviceId;
    if (deviceId !== undefined) options.traffic.ready(deviceId);
  });
  broker.on("unsubscribe", (filters, client) => {
    for (const filter of filters) sessions.get(client.conn)?.link?.unhear(filter);
  });
  // Not among its typed events; unheard it would end the process.
  (broker as EventEmitter).on("error", (error: unknown) => logger.error({ err: error }, "broker"));
  for (const event of ["clientError", "connectionError"] as const) {
    broker.on(event, (client, error) => logger.debug({ clientId: client?.id, error: error?.message }, event));
  }

  const door = await listenDevices(options, (visitor) => {
    const limits = { firstPacketBytes: 4096, packetBytes: options.maxPacketBytes };
    const guard = new PacketGuard(visitor.socket, limits);
    sessions.set(guard, { guard, visitor, hasWill: false });
    broker.handle(guard);
  });

  return {
    port: door.port,
    get connected() {
      return connected.size;
    },
    refusals: door.refusals,
    close: () => door.close(() => new Promise((resolve) => broker.close(() => resolve()))),
  };
}

function authError(returnCode: number): AuthenticateError {
  return Object.assign(new Error("not authorized"), { returnCode }) as AuthenticateError;
}
