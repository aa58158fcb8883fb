import rhea, { type Connection, type Delivery, type EventContext, type Message, type Sender } from "rhea";
import { errorCodeOf } from "../../lib/domain/errors.ts";
import type { StoredMessage, TwinValues } from "../../store/hub-traffic.ts";
import type { Admission } from "./admission.ts";
import { MAX_MESSAGE_BYTES, type TelemetryWriter } from "./telemetry.ts";
import type { DeviceLink, Outcome, Traffic } from "./traffic.ts";

type Node = "events" | "messages" | "methods" | "twin";

const MAX_PROPERTIES = 128;
const NODES: Readonly<Record<string, Node>> = {
  "messages/events": "events",
  "messages/devicebound": "messages",
  "methods/devicebound": "methods",
  twin: "twin",
};

/** The link's end at the hub, when it is this device's own; clients send a path or a whole URL. */
export function nodeOf(address: unknown, deviceId: string): Node | undefined {
  if (typeof address !== "string" || address.length > 1024) return undefined;
  const [, id, rest] = /^(?:amqps:\/\/[^/]+)?\/devices\/([^/]+)\/(.+?)\/?$/.exec(address) ?? [];
  if (id !== deviceId && id !== encodeURIComponent(deviceId)) return undefined;
  return rest !== undefined && Object.hasOwn(NODES, rest) ? NODES[rest] : undefined;
}

interface Parts {
  telemetry: TelemetryWriter;
  traffic: Traffic;
  admission: Pick<Admission, "registry">;
}

/** A device's AMQP connection: what it says, and what is said to it. */
export class AmqpLink implements DeviceLink {
  readonly #deviceId: string;
  readonly #parts: Parts;
  readonly #senders = new Map<Node, Sender>();
  readonly #unsettled = new Map<Delivery, (outcome: Outcome) => void>();
  #wantsDesired = false;
  #closed = false;

  constructor(connection: Connection, deviceId: string, parts: Parts) {
    this.#deviceId = deviceId;
    this.#parts = parts;
    connection.on("receiver_open", ({ receiver }: EventContext) => {
      if (receiver === undefined) return;
      const address: unknown = receiver.target?.address;
      const node = nodeOf(address, deviceId);
      if (node === undefined || node === "messages" || !this.#allows(node)) return receiver.close(NOT_ITS_OWN);
      receiver.set_target({ address: String(address) });
    });
    connection.on("sender_open", ({ sender }: EventContext) => {
      if (sender === undefined) return;
      const address: unknown = sender.source?.address;
      const node = nodeOf(address, deviceId);
      if (node === undefined || node === "events" || !this.#allows(node)) return sender.close(NOT_ITS_OWN);
      sender.set_source({ address: String(address) });
      this.#senders.set(node, sender);
    });
    connection.on("sender_close", ({ sender }: EventContext) => {
      for (const [node, known] of this.#senders) if (known === sender) this.#senders.delete(node);
    });
    connection.on("sendable", ({ sender }: EventContext) => {
      if (sender !== undefined && sender === this.#senders.get("messages")) parts.traffic.ready(deviceId);
    });
    connection.on("message", (context: EventContext) => void this.#said(context));
    for (const [event, outcome] of OUTCOMES) {
      connection.on(event, ({ delivery }: EventContext) => {
        if (delivery !== undefined) this.#settle(delivery, outcome);
      });
    }
  }

  #allows(node: Node): boolean {
    return this.#parts.admission.registry.allows(this.#deviceId, node === "events" ? "telemetry" : node);
  }

  wants(kind: "messages" | "methods" | "desired"): boolean {
    if (this.#closed || (kind === "desired" && !this.#wantsDesired)) return false;
    return this.#senders.get(kind === "desired" ? "twin" : kind)?.sendable() ?? false;
  }

  closed(): void {
    this.#closed = true;
    for (const delivery of this.#unsettled.keys()) this.#settle(delivery, "released");
  }

  sendMessage(message: StoredMessage): Promise<Outcome> {
    const sender = this.#senders.get("messages");
    if (this.#closed || sender === undefined || !sender.sendable()) return Promise.resolve("released");
    const { system } = message;
    return new Promise((resolve) => {
      const delivery = sender.send({
        to: `/devices/${this.#deviceId}/messages/devicebound`,
        ...(system["$.mid"] === undefined ? {} : { message_id: system["$.mid"] }),
        ...(system["$.ct"] === undefined ? {} : { content_type: system["$.ct"] }),
        ...(system["$.ce"] === undefined ? {} : { content_encoding: system["$.ce"] }),
        application_properties: message.properties,
        body: dataSection(Buffer.from(message.body)),
      });
      this.#unsettled.set(delivery, resolve);
    });
  }

  sendMethod({ name, requestId, body }: { name: string; requestId: string; body: string }): void {
    this.#senders.get("methods")?.send({
      correlation_id: requestId,
      application_properties: { "IoThub-methodname": name },
      body: dataSection(Buffer.from(body)),
    });
  }

  sendDesired(patch: TwinValues, version: number): void {
    const body = Buffer.from(JSON.stringify({ ...patch, $version: version }));
    this.#senders.get("twin")?.send({ body: dataSection(body) });
  }

  async #said({ receiver, delivery, message }: EventContext): Promise<void> {
    if (receiver === undefined || delivery === undefined || message === undefined) return;
    const { telemetry, traffic } = this.#parts;
    const deviceId = this.#deviceId;
    const body = bodyOf(message);
    try {
      switch (nodeOf(receiver.target?.address, deviceId)) {
        case "events": {
          const event = eventOf(message);
          if (event === undefined) return delivery.reject({ condition: "amqp:invalid-field" });
          if (body.length > MAX_MESSAGE_BYTES) return delivery.reject({ condition: "amqp:link:message-size-exceeded" });
          await telemetry.write({ deviceId, ...event, body });
          break;
        }
        case "methods": {
          const status = Number(message.application_properties?.["IoThub-status"]);
          traffic.answered(deviceId, idText(message.correlation_id), Number.isSafeInteger(status) ? status : 0, body);
          break;
        }
        case "twin":
          await this.#twin(message, body);
          break;
        default:
          return delivery.reject({ condition: "amqp:not-allowed" });
      }
      // Settled when it is committed, and not before.
      delivery.accept();
    } catch {
      delivery.release({ delivery_failed: true, undeliverable_here: false });
    }
  }

  async #twin(message: Message, body: Uint8Array): Promise<void> {
    const { traffic } = this.#parts;
    const asked: Record<string, unknown> = message.message_annotations ?? {};
    const answer = (status: number, text: string, version?: number): void =>
      void this.#senders.get("twin")?.send({
        correlation_id: message.correlation_id as string,
        message_annotations: { status, ...(version === undefined ? {} : { version }) },
        body: dataSection(Buffer.from(text)),
      });
    const what = [asked["operation"], asked["resource"] ?? ""].join(" ");
    if (what === "GET ") {
      const twin = await traffic.twin(this.#deviceId);
      const desired = { ...twin.desired, $version: twin.desiredVersion };
      answer(200, JSON.stringify({ desired, reported: { ...twin.reported, $version: twin.reportedVersion } }));
    } else if (what === "PATCH /properties/reported") {
      try {
        answer(200, "", await traffic.report(this.#deviceId, body));
      } catch (error) {
        if (!["input-invalid", "input-too-large"].includes(errorCodeOf(error))) throw error;
        answer(400, "");
      }
    } else if (what === "PUT /notifications/twin/properties/desired") {
      this.#wantsDesired = true;
      answer(200, "");
    } else if (what === "DELETE /notifications/twin/properties/desired") {
      this.#wantsDesired = false;
      answer(200, "");
    } else answer(400, "");
  }

  #settle(delivery: Delivery, outcome: Outcome): void {
    const settle = this.#unsettled.get(delivery);
    this.#unsettled.delete(delivery);
    settle?.(outcome);
  }
}

const NOT_ITS_OWN = { condition: "amqp:unauthorized-access", description: "not this device's" };
const OUTCOMES = [
  ["accepted", "accepted"],
  ["rejected", "rejected"],
  ["released", "released"],
  ["modified", "released"],
] as const;

/** System properties by IoT Hub's MQTT names, so that both protocols store the same. */
function eventOf(message: Message): { system: Record<string, string>; properties: Record<string, string> } | undefined {
  const system = Object.create(null) as Record<string, string>;
  const named = { "$.mid": message.message_id, "$.cid": message.correlation_id };
  for (const [name, id] of Object.entries(named)) if (id != null) system[name] = idText(id);
  if (typeof message.content_type === "string") system["$.ct"] = message.content_type;
  if (typeof message.content_encoding === "string") system["$.ce"] = message.content_encoding;
  const properties = Object.create(null) as Record<string, string>;
  const own = Object.entries((message.application_properties ?? {}) as Record<string, unknown>);
  if (own.length > MAX_PROPERTIES) return undefined;
  for (const [name, value] of own) {
    if (!["string", "number", "boolean"].includes(typeof value) || name.startsWith("$.")) return undefined;
    properties[name] = String(value);
  }
  const texts = [...Object.values(system), ...Object.entries(properties).flat()];
  return texts.some((text) => text.includes("\0")) ? undefined : { system, properties };
}

function dataSection(bytes: Buffer): unknown {
  return rhea.message.data_section(bytes) as unknown;
}

function idText(id: unknown): string {
  if (Buffer.isBuffer(id)) return id.length === 16 ? rhea.uuid_to_string(id) : id.toString("hex");
  return typeof id === "string" || typeof id === "number" ? String(id) : "";
}

function bodyOf(message: Message): Uint8Array {
  const body: unknown = message.body;
  const content: unknown = (body as { content?: unknown } | undefined)?.content ?? body;
  if (Buffer.isBuffer(content)) return content;
  if (Array.isArray(content) && content.every((part) => Buffer.isBuffer(part))) return Buffer.concat(content);
  return content === undefined || content === null
    ? Buffer.alloc(0)
    : Buffer.from(typeof content === "string" ? content : JSON.stringify(content));
}
