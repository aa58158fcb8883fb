import type { AedesPublishPacket, Client, PublishPacket } from "aedes";
import type { StoredMessage, TwinValues } from "../../store/hub-traffic.ts";
import {
  desiredTopic,
  type Heard,
  messageTopic,
  methodTopic,
  parseHeard,
  parseSaid,
  twinAnswerTopic,
} from "./device-topics.ts";
import { MAX_MESSAGE_BYTES, type TelemetryWriter } from "./telemetry.ts";
import type { DeviceLink, Outcome, Traffic } from "./traffic.ts";
import { CountersignError, errorCodeOf } from "../../lib/domain/errors.ts";

/** Payloads this hub itself sends, with the message ID where one was chosen. Nothing else is ever forwarded. */
const ours = new WeakMap<object, { messageId?: number }>();

/**
 * For the broker's `authorizeForward`: only what was sent by a link to its own client passes, never what the broker
 * would hand from one device to another; every device has the same `$iothub` topics.
 */
export function forwardOwn(packet: AedesPublishPacket): AedesPublishPacket | null {
  const own = ours.get(packet.payload as Buffer);
  if (own === undefined) return null;
  return own.messageId === undefined ? packet : Object.assign(packet, { messageId: own.messageId });
}

/** Sends to this client and nobody else, QoS 0. */
export function sendOwn(
  client: Client,
  topic: string,
  body: Uint8Array,
  done: (error?: Error) => void = () => undefined,
): void {
  // A copy: what marks it as ours is this very object.
  const payload = Buffer.from(body);
  ours.set(payload, {});
  client.publish({ cmd: "publish", topic, payload, qos: 0, dup: false, retain: false }, done);
}

/** A device's MQTT connection: what it says, and what is said to it. */
export class MqttLink implements DeviceLink {
  readonly #client: Client;
  readonly #deviceId: string;
  readonly #heard = new Map<Heard, 0 | 1>();
  /** Message IDs without their PUBACK. */
  readonly #unacknowledged = new Map<number, (outcome: Outcome) => void>();
  #nextId = 1;
  #turn: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(client: Client, deviceId: string) {
    this.#client = client;
    this.#deviceId = deviceId;
  }

  /** A subscription, new or restored. False when it isn't this device's to make. */
  hear(filter: string, qos: number): boolean {
    const heard = parseHeard(filter, this.#deviceId);
    if (heard !== undefined) this.#heard.set(heard, qos === 0 ? 0 : 1);
    return heard !== undefined;
  }

  unhear(filter: string): void {
    const heard = parseHeard(filter, this.#deviceId);
    if (heard !== undefined) this.#heard.delete(heard);
  }

  wants(kind: "messages" | "methods" | "desired"): boolean {
    return this.#heard.has(kind) && !this.#closed;
  }

  acknowledged(messageId: number): void {
    this.#unacknowledged.get(messageId)?.("accepted");
  }

  closed(): void {
    this.#closed = true;
    for (const settle of this.#unacknowledged.values()) settle("released");
  }

  sendMessage(message: StoredMessage): Promise<Outcome> {
    if (this.#closed) return Promise.resolve("released");
    const topic = messageTopic(this.#deviceId, message);
    const qos = this.#heard.get("messages") ?? 1;
    return new Promise<Outcome>((resolve) => {
      if (qos === 0) {
        this.#send(topic, message.body, (error) => resolve(error == null ? "accepted" : "released"));
        return;
      }
      const messageId = this.#freeId();
      this.#unacknowledged.set(messageId, (outcome) => {
        this.#unacknowledged.delete(messageId);
        resolve(outcome);
      });
      const payload = Buffer.from(message.body);
      ours.set(payload, { messageId });
      const dup = message.deliveries > 1;
      this.#client.publish({ cmd: "publish", topic, payload, qos: 1, dup, retain: false }, () => undefined);
    });
  }

  sendMethod({ name, requestId, body }: { name: string; requestId: string; body: string }): void {
    this.#send(methodTopic(name, requestId), Buffer.from(body));
  }

  sendDesired(patch: TwinValues, version: number): void {
    this.#send(desiredTopic(version), Buffer.from(JSON.stringify({ ...patch, $version: version })));
  }

  /**
   * Takes what the device publishes. Resolves when it is durable: PUBACK follows.
   * @throws CountersignError `hub-refused` when it isn't this device's to say, `component-unreachable`
   */
  async said(packet: PublishPacket, parts: { telemetry: TelemetryWriter; traffic: Traffic }): Promise<void> {
    const said = packet.qos === 2 ? undefined : parseSaid(packet.topic, this.#deviceId);
    const deviceId = this.#deviceId;
    const body = typeof packet.payload === "string" ? Buffer.from(packet.payload) : packet.payload;
    switch (said?.kind) {
      case undefined:
        throw new CountersignError("hub-refused", "publish refused");
      case "event":
        if (body.length > MAX_MESSAGE_BYTES) throw new CountersignError("hub-refused", "a message above 256 KiB");
        return parts.telemetry.write({ deviceId, system: said.system, properties: said.properties, body });
      case "method-answer":
        return parts.traffic.answered(deviceId, said.requestId, said.status, body);
      case "twin-get":
        return this.#inTurn(async () => {
          const twin = await parts.traffic.twin(deviceId);
          const answer = {
            desired: { ...twin.desired, $version: twin.desiredVersion },
            reported: { ...twin.reported, $version: twin.reportedVersion },
          };
          await this.#answer(twinAnswerTopic(200, said.requestId), Buffer.from(JSON.stringify(answer)));
        });
      case "twin-report":
        return this.#inTurn(async () => {
          const [status, version] = await this.#report(parts.traffic, body);
          await this.#answer(twinAnswerTopic(status, said.requestId, version), Buffer.alloc(0));
        });
    }
  }

  /** One request after the other: a device that asks a thousand times in one breath has one answer in the making. */
  #inTurn(work: () => Promise<void>): Promise<void> {
    const mine = this.#turn.then(() => (this.#closed ? undefined : work()));
    this.#turn = mine.catch(() => undefined);
    return mine;
  }

  async #report(traffic: Traffic, body: Uint8Array): Promise<[status: number, version?: number]> {
    try {
      return [204, await traffic.report(this.#deviceId, body)];
    } catch (error) {
      const code = errorCodeOf(error);
      if (code === "input-invalid") return [400];
      if (code === "input-too-large") return [413];
      throw error;
    }
  }

  /** Done when the connection has taken it: whoever asks and doesn't read is asked to wait, and not answered into memory. */
  #answer(topic: string, body: Uint8Array): Promise<void> {
    return new Promise((resolve) => this.#send(topic, body, () => resolve()));
  }

  #send(topic: string, body: Uint8Array, done?: (error?: Error) => void): void {
    sendOwn(this.#client, topic, body, done);
  }

  #freeId(): number {
    do this.#nextId = (this.#nextId % 65_535) + 1;
    while (this.#unacknowledged.has(this.#nextId));
    return this.#nextId;
  }
}
