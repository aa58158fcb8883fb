import rhea, { type Connection } from "rhea";
import { CountersignError } from "../../lib/domain/errors.ts";
import { DEVICE_ID } from "../../lib/domain/ids.ts";
import type { Admission } from "./admission.ts";
import { AmqpLink } from "./amqp-link.ts";
import { type DoorOptions, listenDevices, type Visitor } from "./device-door.ts";
import type { TelemetryWriter } from "./telemetry.ts";
import type { Traffic } from "./traffic.ts";
import { UnreadOutput } from "./unread.ts";

export interface AmqpOptions extends DoorOptions {
  /** Largest message, everything included. */
  maxMessageBytes: number;
  /** How long a device may leave unread what it was sent. */
  drainTimeoutMs: number;
  admission: Admission;
  telemetry: TelemetryWriter;
  traffic: Traffic;
}

export interface AmqpListener {
  readonly port: number;
  readonly connected: number;
  readonly refusals: Readonly<Record<string, number>>;
  close(): Promise<void>;
}

/** What a device may leave unread while it goes on asking. */
const MAX_UNREAD_BYTES = 1 << 20;

/**
 * IoT Hub's AMQP 1.0 over TLS, with certificates: the same admission, the same store. Who a device is says its
 * certificate; the connection names nobody.
 */
export async function listenAmqp(options: AmqpOptions): Promise<AmqpListener> {
  const { logger, traffic } = options;
  const container = rhea.create_container({
    receiver_options: { autoaccept: false, credit_window: 100 },
    max_frame_size: 64 * 1024,
    channel_max: 15,
    idle_time_out: 240_000,
  } as never);
  // Unheard they would be printed, or thrown.
  for (const event of ["error", "protocol_error", "disconnected", "connection_error", "session_error"] as const) {
    container.on(event, () => undefined);
  }
  for (const event of ["sender_error", "receiver_error"] as const) container.on(event, () => undefined);
  const unread = new UnreadOutput(options.drainTimeoutMs);
  let connected = 0;

  async function come(visitor: Visitor): Promise<void> {
    const { socket } = visitor;
    socket.on("error", () => undefined);
    unread.watch(socket);
    const timer = setTimeout(() => socket.destroy(), options.connectTimeoutMs);
    socket.once("close", () => clearTimeout(timer));
    let deviceId: string | undefined;
    if (door.limited(visitor)) door.refuse(visitor, "hub-rate-limited", "too many refusals");
    else {
      try {
        deviceId = await admit(visitor);
      } catch (error) {
        door.refuseFor(visitor, error);
      }
    }
    if (socket.destroyed) return;
    const connection: Connection = container.create_connection({} as never);
    limit(connection, visitor);
    if (deviceId === undefined) {
      connection.on("connection_open", () => {
        connection.close({ condition: "amqp:unauthorized-access", description: "not authorized" });
      });
    } else {
      const id = deviceId;
      const link = new AmqpLink(connection, id, options);
      connection.on("connection_open", () => {
        clearTimeout(timer);
        connected++;
        socket.once("close", () => {
          connected--;
          traffic.detach(id, link);
          link.closed();
        });
        traffic.attach(id, link);
        logger.info({ deviceId: id, source: visitor.source }, "device connected");
      });
    }
    (connection as unknown as { accept(socket: unknown): void }).accept(socket);
  }

  async function admit(visitor: Visitor): Promise<string> {
    const { socket } = visitor;
    if (socket.isSessionReused()) throw new CountersignError("hub-no-path", "resumed TLS sessions aren't accepted");
    const named: unknown = socket.getPeerCertificate(false)?.subject?.CN;
    if (typeof named !== "string" || !DEVICE_ID.test(named)) {
      throw new CountersignError("hub-device-mismatch", "the certificate names no device");
    }
    await options.admission.admit(visitor.chain, named, new Date(), socket);
    door.admitted(visitor, named);
    visitor.chain = [];
    return named;
  }

  /** The library gathers what a frame or a message announces: no more than the limit without a whole message. */
  function limit(connection: Connection, { socket }: Visitor): void {
    let waiting = 0;
    socket.on("data", (chunk: Buffer) => {
      waiting += chunk.length;
      // Answers are kept by the library until the socket takes them.
      if (waiting > options.maxMessageBytes || socket.writableLength > MAX_UNREAD_BYTES) socket.destroy();
    });
    for (const event of ["message", "accepted"] as const) connection.on(event, () => (waiting = 0));
  }

  const door = await listenDevices(options, (visitor) => void come(visitor));
  return {
    port: door.port,
    get connected() {
      return connected;
    },
    refusals: door.refusals,
    close: () => {
      unread.stop();
      return door.close();
    },
  };
}
