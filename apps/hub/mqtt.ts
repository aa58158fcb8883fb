import { constants, createHash } from "node:crypto";
import type { EventEmitter } from "node:events";
import type { AddressInfo, Socket } from "node:net";
import { createServer, type DetailedPeerCertificate, type TLSSocket } from "node:tls";
import { Aedes, type AuthenticateError, type Client } from "aedes";
import { CountersignError, errorCodeOf } from "../../lib/domain/errors.ts";
import type { Db } from "../../store/db.ts";
import type { Logger } from "../http/logger.ts";
import { type Admission, MAX_CHAIN } from "./admission.ts";
import { DenialWindow, PendingConnections } from "./denials.ts";
import { forwardOwn, MqttLink } from "./mqtt-link.ts";
import { MqttSessions } from "./mqtt-sessions.ts";
import { PacketGuard } from "./packet-guard.ts";
import type { TelemetryWriter } from "./telemetry.ts";
import { deviceIdOfUsername } from "./topics.ts";
import type { Traffic } from "./traffic.ts";

export interface MqttOptions {
  host: string;
  port: number;
  maxConnections: number;
  maxPacketBytes: number;
  connectTimeoutMs: number;
  tls: { key: string; cert: string };
  admission: Admission;
  telemetry: TelemetryWriter;
  traffic: Traffic;
  /** Where subscriptions outlive connections. */
  db: Db;
  logger: Logger;
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

/** Of a source that was refused often: enough for a good device beside it to come in when it tries again. */
const MAX_PENDING_OF_SUSPECT = 32;

/** A session per connection; its device is known once admitted. */
interface Session {
  guard: PacketGuard;
  source: string;
  hasWill: boolean;
  deviceId?: string;
  link?: MqttLink;
}

/** The device's front door: IoT Hub's MQTT 3.1.1 over TLS. */
export async function listenMqtt(options: MqttOptions): Promise<MqttListener> {
  const { logger } = options;
  const sessions = new WeakMap<object, Session>();
  const connected = new Map<string, Session>();
  const refusals = Object.create(null) as Record<string, number>;
  const bySource = new DenialWindow({ limit: 200, windowMs: 10_000 });
  const byIdentity = new DenialWindow({ limit: 5, windowMs: 10_000 });
  // Connections of a source that aren't admitted yet
  const pending = new PendingConnections();

  const refuse = (session: Session, reason: string, message: string, key: string): void => {
    refusals[reason] = (refusals[reason] ?? 0) + 1;
    bySource.add(session.source);
    const count = byIdentity.add(key);
    if (count <= 5) logger.warn({ reason, source: session.source, deviceId: session.deviceId, count }, message);
  };

  const broker = await Aedes.createBroker({
    persistence: new MqttSessions(options.db, (client, messageId) =>
      sessions.get((client as Client).conn)?.link?.acknowledged(messageId),
    ),
    connectTimeout: options.connectTimeoutMs,
    drainTimeout: 20_000,
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
      const { socket } = session.guard;
      // Who shares an address with a bad client isn't answered for it, nor the owner of a certificate for its copies.
      const key = `${session.source} ${leafKey(socket)}`;
      // A retry loop gets its answer without another path validation.
      if (byIdentity.exceeded(key)) {
        refuse(session, "hub-rate-limited", "too many refusals", key);
        return done(authError(NOT_AUTHORIZED), false);
      }
      admit(client, session, username).then(
        (deviceId) => {
          byIdentity.forget(key);
          // It left while it was judged: nothing would take it off the list again.
          if (session.guard.destroyed) return done(null, false);
          session.deviceId = deviceId;
          pending.settle(session.source, socket.remotePort);
          session.link = new MqttLink(client, deviceId);
          connected.set(deviceId, session);
          session.guard.once("close", () => {
            if (connected.get(deviceId) === session) connected.delete(deviceId);
          });
          done(null, true);
        },
        (error: unknown) => {
          const reason = errorCodeOf(error);
          if (reason === "internal") logger.error({ err: error, source: session.source }, "admission failed");
          refuse(session, reason, error instanceof Error ? error.message : "refused", key);
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
      link.said(packet, options).then(
        () => done(null),
        (error: unknown) => {
          const { deviceId } = session;
          if (errorCodeOf(error) === "hub-refused") {
            refuse(session, "hub-topic-refused", "publish refused", deviceId ?? "");
          } else logger.error({ err: error, deviceId }, "what a device said is not stored");
          done(error instanceof Error ? error : new Error("not stored"));
        },
      );
    },

    // Null answers SUBACK 128.
    authorizeSubscribe(client, subscription, callback) {
      const session = sessions.get(client.conn);
      if (session?.link?.hear(subscription.topic, subscription.qos)) {
        // QoS 2 is granted as 1.
        if (subscription.qos === 2) subscription.qos = 1;
        return callback(null, subscription);
      }
      if (session !== undefined) refuse(session, "hub-topic-refused", "subscribe refused", session.deviceId ?? "");
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
    await options.admission.admit(uploadedChain(socket), deviceId, new Date(), session.guard);
    return deviceId;
  }

  broker.on("clientReady", (client) => {
    const session = sessions.get(client.conn);
    if (session?.link === undefined || session.deviceId === undefined) return;
    const { deviceId, link, guard } = session;
    logger.info({ deviceId, source: session.source }, "device connected");
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

  const server = createServer({
    ...options.tls,
    // An empty list, not none: none would make OpenSSL check against the public web's roots. The answer isn't used.
    ca: [],
    requestCert: true,
    rejectUnauthorized: false,
    minVersion: "TLSv1.2",
    handshakeTimeout: options.connectTimeoutMs,
    // A resumed session hides the intermediates, so that a revoked one would pass. Without tickets, and with Node's
    // server-side session store not in use, neither TLS 1.2 nor 1.3 resumes.
    secureOptions: constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION,
  });
  server.maxConnections = options.maxConnections;
  const sockets = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    const source = socket.remoteAddress ?? "";
    // Others may share the address of one that floods: it is slowed down, never locked out.
    if (bySource.exceeded(source) && pending.of(source) >= MAX_PENDING_OF_SUSPECT) {
      refusals["hub-source-limited"] = (refusals["hub-source-limited"] ?? 0) + 1;
      socket.destroy();
      return;
    }
    sockets.add(socket);
    const { remotePort } = socket;
    pending.add(source, remotePort);
    socket.once("close", () => pending.settle(source, remotePort));
    socket.once("close", () => sockets.delete(socket));
  });
  server.on("tlsClientError", (error, socket) => {
    refusals["hub-handshake-failed"] = (refusals["hub-handshake-failed"] ?? 0) + 1;
    bySource.add(socket.remoteAddress ?? "");
    logger.debug({ source: socket.remoteAddress, error: error.message }, "TLS handshake failed");
  });
  server.on("secureConnection", (socket) => {
    const guard = new PacketGuard(socket, { firstPacketBytes: 4096, packetBytes: options.maxPacketBytes });
    sessions.set(guard, { guard, source: socket.remoteAddress ?? "", hasWill: false });
    broker.handle(guard);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(options.port, options.host, () => {
      server.off("error", reject);
      resolve();
    });
  });
  server.on("error", (error) => logger.error({ err: error }, "MQTT listener"));

  return {
    port: (server.address() as AddressInfo).port,
    get connected() {
      return connected.size;
    },
    refusals,
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      await new Promise<void>((resolve) => broker.close(() => resolve()));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
}

/** The certificates as the client sent them, leaf first; a root that names itself as issuer ends the walk. */
function uploadedChain(socket: TLSSocket): Uint8Array[] {
  const chain: Uint8Array[] = [];
  let current: DetailedPeerCertificate | undefined = socket.getPeerCertificate(true);
  while (current?.raw !== undefined && chain.length <= MAX_CHAIN) {
    chain.push(new Uint8Array(current.raw));
    if (current.issuerCertificate === current) break;
    current = current.issuerCertificate;
  }
  return chain;
}

/** The identity that refusals are counted by, beside the source: the certificate shown, if any. */
function leafKey(socket: TLSSocket): string {
  const raw = socket.getPeerCertificate(false)?.raw;
  return raw === undefined ? "" : createHash("sha256").update(raw).digest("hex");
}

function authError(returnCode: number): AuthenticateError {
  return Object.assign(new Error("not authorized"), { returnCode }) as AuthenticateError;
}
