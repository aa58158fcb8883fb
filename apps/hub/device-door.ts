import { constants, type X509Certificate } from "node:crypto";
import type { AddressInfo, Socket } from "node:net";
import { createServer, type TLSSocket } from "node:tls";
import { errorCodeOf } from "../../lib/domain/errors.ts";
import type { Logger } from "../http/logger.ts";
import { MAX_CHAIN, sha256 } from "./admission.ts";
import { DenialWindow, PendingConnections } from "./denials.ts";

export interface DoorOptions {
  host: string;
  port: number;
  maxConnections: number;
  /** Connections that nobody is admitted on yet. */
  maxHalfOpen: number;
  /** From the accepted connection to the end of its handshake, milliseconds. */
  connectTimeoutMs: number;
  tls: { key: string; cert: string };
  logger: Logger;
}

/** Of a source that was refused often: enough for a good device beside it to come in when it tries again. */
const MAX_PENDING_OF_SUSPECT = 32;

/** Somebody with a finished handshake, who isn't let in by that. */
export interface Visitor {
  readonly socket: TLSSocket;
  readonly source: string;
  /** The identity that refusals are counted by: the certificate shown, if any, and the source. */
  readonly key: string;
  /** Its certificates as DER, as they were sent, leaf first; at most one more than are taken. */
  chain: readonly Uint8Array[];
  deviceId?: string;
}

export interface DeviceDoor {
  readonly port: number;
  /** Refusals since the start, by reason. */
  readonly refusals: Readonly<Record<string, number>>;
  /** True when a retry loop gets its answer without another look. */
  limited(visitor: Visitor): boolean;
  refuse(visitor: Visitor, reason: string, message: string, key?: string): void;
  /** Refuses for what was thrown; returns its code, `internal` for a fault of ours. */
  refuseFor(visitor: Visitor, error: unknown): string;
  admitted(visitor: Visitor, deviceId: string): void;
  /** No new ones; `end` ends what is open with the protocol's own means, the rest is cut off. */
  close(end?: () => Promise<void>): Promise<void>;
}

/** The TLS listener in front of every protocol that devices speak. */
export async function listenDevices(
  options: DoorOptions,
  onVisitor: (visitor: Visitor, door: DeviceDoor) => void,
): Promise<DeviceDoor> {
  const { logger } = options;
  const refusals = Object.create(null) as Record<string, number>;
  const bySource = new DenialWindow({ limit: 200, windowMs: 10_000 });
  const byIdentity = new DenialWindow({ limit: 5, windowMs: 10_000 });
  // Connections of a source that aren't admitted yet
  const pending = new PendingConnections();
  const count = (reason: string): void => void (refusals[reason] = (refusals[reason] ?? 0) + 1);

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
  // A few more than are kept, so that a new one can push an old one out.
  server.maxConnections = options.maxConnections + 16;
  const sockets = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    const source = socket.remoteAddress ?? "";
    if (pending.size >= options.maxHalfOpen || sockets.size >= options.maxConnections) {
      // A device comes in within a second; what has taken longest most likely only holds its place.
      count("hub-half-open-limited");
      const oldest = pending.oldest();
      if (oldest === undefined) return void socket.destroy();
      oldest.destroy();
    }
    // Others may share the address of one that floods: it is slowed down, never locked out.
    if (bySource.exceeded(source) && pending.of(source) >= MAX_PENDING_OF_SUSPECT) {
      count("hub-source-limited");
      socket.destroy();
      return;
    }
    sockets.add(socket);
    const { remotePort } = socket;
    pending.add(source, remotePort, socket);
    socket.once("close", () => pending.settle(source, remotePort));
    socket.once("close", () => sockets.delete(socket));
  });
  server.on("tlsClientError", (error, socket) => {
    count("hub-handshake-failed");
    bySource.add(socket.remoteAddress ?? "");
    logger.debug({ source: socket.remoteAddress, error: error.message }, "TLS handshake failed");
    // Node says only that the time is up: whoever doesn't speak would stay.
    socket.destroy();
  });
  server.on("secureConnection", (socket) => {
    const source = socket.remoteAddress ?? "";
    const chain = uploadedChain(socket);
    const leaf = chain[0] === undefined ? "" : sha256(chain[0]);
    onVisitor({ socket, source, key: `${source} ${leaf}`, chain }, door);
  });

  const door: DeviceDoor = {
    get port() {
      return (server.address() as AddressInfo).port;
    },
    refusals,
    limited: (visitor) => byIdentity.exceeded(visitor.key),
    refuse(visitor, reason, message, key = visitor.key) {
      count(reason);
      bySource.add(visitor.source);
      const times = byIdentity.add(key);
      const { source, deviceId } = visitor;
      if (times <= 5) logger.warn({ reason, source, deviceId, count: times }, message);
    },
    refuseFor(visitor, error) {
      const reason = errorCodeOf(error);
      if (reason === "internal") logger.error({ err: error, source: visitor.source }, "admission failed");
      door.refuse(visitor, reason, error instanceof Error ? error.message : "refused");
      return reason;
    },
    admitted(visitor, deviceId) {
      visitor.deviceId = deviceId;
      byIdentity.forget(visitor.key);
      pending.settle(visitor.source, visitor.socket.remotePort);
    },
    async close(end = () => Promise.resolve()) {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      await end();
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(options.port, options.host, () => {
      server.off("error", reject);
      resolve();
    });
  });
  server.on("error", (error) => logger.error({ err: error }, "device listener"));
  return door;
}

/**
 * What the client has sent, leaf first. To be asked once a connection: each reading takes the issuers out of OpenSSL's
 * own list. The older `getPeerCertificate` also writes out every field of every certificate, for most of a millisecond.
 */
function uploadedChain(socket: TLSSocket): Uint8Array[] {
  const chain: Uint8Array[] = [];
  let current: X509Certificate | undefined = socket.getPeerX509Certificate();
  for (; current !== undefined && chain.length <= MAX_CHAIN; current = current.issuerCertificate) {
    chain.push(new Uint8Array(current.raw));
  }
  return chain;
}
