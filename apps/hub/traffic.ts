import type { Db } from "../../store/db.ts";
import {
  deleteMessage,
  type DeviceMessage,
  enqueueMessage,
  readTwin,
  type StoredMessage,
  takeMessages,
  type Twin,
  type TwinValues,
  updateTwin,
} from "../../store/hub-traffic.ts";
import { devicesWithTraffic, readDesired, TRAFFIC_CHANNEL } from "../../store/hub-relay.ts";
import { keepListening, type Subscription } from "../../store/listen.ts";
import type { Logger } from "../http/logger.ts";
import { type MethodAnswer, MethodCalls } from "./method-calls.ts";
import { applyPatch, checkPatch, parsePatch } from "./twin.ts";

/** What became of a message: taken, refused for good, or not settled: it is offered again at the next connection. */
export type Outcome = "accepted" | "rejected" | "released";

/** A device's connection, whatever its protocol, as traffic to the device sees it. */
export interface DeviceLink {
  /** What the device has asked to be told of; asked anew before each use. */
  wants(kind: "messages" | "methods" | "desired"): boolean;
  /** Resolves when the device has said so, or its connection is gone; never rejects. */
  sendMessage(message: StoredMessage): Promise<Outcome>;
  sendMethod(call: { name: string; requestId: string; body: string }): void;
  sendDesired(patch: TwinValues, version: number): void;
}

const IN_FLIGHT = 10;

interface Attached {
  link: DeviceLink;
  /** Ids of the messages that it hasn't settled yet. */
  inFlight: Set<number>;
  pumping: boolean;
  again: boolean;
  /** Version of the last desired properties that it was told. */
  told: number | undefined;
  telling: Promise<void>;
}

/**
 * Traffic to devices: messages from the database, in order and until acknowledged; twins; method calls. A device has
 * one connection, the last to attach, at one of the hub processes on the database: what another process has for it is
 * told by notifications that name a row.
 */
export class Traffic {
  readonly #db: Db;
  readonly #logger: Logger;
  readonly #attached = new Map<string, Attached>();
  readonly #calls: MethodCalls;
  #subscription: Subscription | undefined;

  constructor(db: Db, logger: Logger, processId: string) {
    this.#db = db;
    this.#logger = logger;
    const linkOf = (deviceId: string): DeviceLink | undefined => this.#attached.get(deviceId)?.link;
    this.#calls = new MethodCalls({ db, logger, processId, linkOf });
  }

  /** Listens to the other processes until `stop`. */
  async start(): Promise<void> {
    this.#subscription = await keepListening(this.#db, TRAFFIC_CHANNEL, (payload) => this.#hear(payload));
  }

  stop(): void {
    this.#subscription?.close();
  }

  attach(deviceId: string, link: DeviceLink): void {
    const telling = Promise.resolve();
    this.#attached.set(deviceId, { link, inFlight: new Set(), pumping: false, again: false, told: undefined, telling });
    this.ready(deviceId);
  }

  detach(deviceId: string, link: DeviceLink): void {
    if (this.#attached.get(deviceId)?.link === link) this.#attached.delete(deviceId);
  }

  /** Its device wants more than before: what waits for it goes out. */
  ready(deviceId: string): void {
    const attached = this.#attached.get(deviceId);
    if (attached !== undefined) void this.#pump(deviceId, attached);
  }

  /** @throws CountersignError `not-found`, `quota-exceeded` */
  async send(deviceId: string, message: DeviceMessage & { expiresAt: Date }): Promise<StoredMessage> {
    const stored = await enqueueMessage(this.#db, deviceId, message);
    this.ready(deviceId);
    return stored;
  }

  twin(deviceId: string): Promise<Twin> {
    return readTwin(this.#db, deviceId);
  }

  /**
   * What a device says of itself; committed when it resolves with the new version.
   * @throws CountersignError `input-invalid`, `input-too-large`
   */
  async report(deviceId: string, body: Uint8Array): Promise<number> {
    const patch = parsePatch(body);
    const twin = await updateTwin(this.#db, deviceId, "reported", patch, applyPatch);
    return twin.reportedVersion;
  }

  /**
   * Committed when it resolves; a device that is connected to any hub process and has asked for it is told.
   * @throws CountersignError `input-invalid`, `input-too-large`, `not-found`
   */
  desire(deviceId: string, body: unknown): Promise<Twin> {
    return updateTwin(this.#db, deviceId, "desired", checkPatch(body), applyPatch);
  }

  /**
   * Calls a method on a connected device and waits for its answer.
   * @throws CountersignError `hub-device-offline` when it isn't connected or takes no methods; `timeout`
   */
  invoke(deviceId: string, name: string, payload: unknown, timeoutMs: number): Promise<MethodAnswer> {
    return this.#calls.invoke(deviceId, name, payload, timeoutMs);
  }

  /** A device's answer to a call. */
  answered(deviceId: string, requestId: string, status: number, body: Uint8Array): void {
    this.#calls.answered(deviceId, requestId, status, body);
  }

  #hear(payload: string): void {
    const [, kind, reference = "", deviceId = ""] =
      /^(message|desired|call|settled):([^:]*)(?::(.*))?$/.exec(payload) ?? [];
    switch (kind) {
      case "message":
        return this.ready(payload.slice("message:".length));
      case "desired":
        return this.#tell(deviceId, Number(reference) - 1);
      case "call":
        return void this.#calls.asked(reference, deviceId);
      case "settled":
        return this.#calls.settled(reference);
      case undefined:
        return this.#lookAgain();
    }
  }

  /** What was said while nobody listened is in the database. */
  #lookAgain(): void {
    this.#calls.settled();
    devicesWithTraffic(this.#db).then(
      (ids) => {
        for (const id of ids) {
          this.ready(id);
          this.#tell(id, 0);
        }
      },
      (error: unknown) => this.#logger.error({ err: error }, "messages for devices can't be read"),
    );
  }

  /** Desired properties above what it was told, or above `before` when that was nothing yet; in their order. */
  #tell(deviceId: string, before: number): void {
    const attached = this.#attached.get(deviceId);
    if (!attached?.link.wants("desired")) return;
    attached.telling = attached.telling.then(async () => {
      for (const { version, patch } of await readDesired(this.#db, deviceId, attached.told ?? before)) {
        attached.link.sendDesired(patch, version);
        attached.told = version;
      }
    });
    attached.telling = attached.telling.catch((error: unknown) =>
      this.#logger.error({ err: error, deviceId }, "desired properties can't be read"),
    );
  }

  async #pump(deviceId: string, attached: Attached): Promise<void> {
    if (attached.pumping) {
      attached.again = true;
      return;
    }
    attached.pumping = true;
    try {
      do {
        attached.again = false;
        const room = IN_FLIGHT - attached.inFlight.size;
        if (room <= 0 || !attached.link.wants("messages")) break;
        const options = { except: [...attached.inFlight], limit: room };
        for (const message of await takeMessages(this.#db, deviceId, options)) {
          attached.inFlight.add(message.id);
          void this.#deliver(deviceId, attached, message);
        }
      } while (attached.again);
    } catch (error) {
      this.#logger.error({ err: error, deviceId }, "messages for a device can't be read");
    } finally {
      attached.pumping = false;
    }
  }

  async #deliver(deviceId: string, attached: Attached, message: StoredMessage): Promise<void> {
    const outcome = await attached.link.sendMessage(message);
    try {
      if (outcome !== "released") await deleteMessage(this.#db, message.id);
      if (outcome === "rejected") this.#logger.warn({ deviceId, message: message.id }, "the device refused a message");
    } catch (error) {
      // It is delivered once more, which the device has to expect.
      this.#logger.error({ err: error, deviceId }, "a message's acknowledgement can't be stored");
    }
    attached.inFlight.delete(message.id);
    if (this.#attached.get(deviceId) === attached) void this.#pump(deviceId, attached);
  }
}
