import { randomBytes } from "node:crypto";
import { CountersignError } from "../../lib/domain/errors.ts";
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
import type { Logger } from "../http/logger.ts";
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

export interface MethodAnswer {
  status: number;
  payload: unknown;
}

const IN_FLIGHT = 10;

interface Attached {
  link: DeviceLink;
  /** Ids of the messages that it hasn't settled yet. */
  inFlight: Set<number>;
  pumping: boolean;
  again: boolean;
}

interface Call {
  deviceId: string;
  answer: (answer: MethodAnswer) => void;
}

/**
 * Traffic to devices: messages from the database, in order and until acknowledged; twins; method calls. A device has
 * one connection, the last to attach.
 */
export class Traffic {
  readonly #db: Db;
  readonly #logger: Logger;
  readonly #attached = new Map<string, Attached>();
  readonly #calls = new Map<string, Call>();

  constructor(db: Db, logger: Logger) {
    this.#db = db;
    this.#logger = logger;
  }

  attach(deviceId: string, link: DeviceLink): void {
    this.#attached.set(deviceId, { link, inFlight: new Set(), pumping: false, again: false });
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
    const twin = await updateTwin(this.#db, deviceId, "reported", (values) => applyPatch(values, patch));
    return twin.reportedVersion;
  }

  /** @throws CountersignError `input-invalid`, `input-too-large`, `not-found` */
  async desire(deviceId: string, body: unknown): Promise<Twin> {
    const patch = checkPatch(body);
    const twin = await updateTwin(this.#db, deviceId, "desired", (values) => applyPatch(values, patch));
    const link = this.#attached.get(deviceId)?.link;
    if (link?.wants("desired")) link.sendDesired(patch, twin.desiredVersion);
    return twin;
  }

  /**
   * Calls a method on a connected device and waits for its answer.
   * @throws CountersignError `hub-device-offline` when it isn't connected or takes no methods; `timeout`
   */
  async invoke(deviceId: string, name: string, payload: unknown, timeoutMs: number): Promise<MethodAnswer> {
    const link = this.#attached.get(deviceId)?.link;
    if (!link?.wants("methods")) {
      throw new CountersignError("hub-device-offline", `the device ${deviceId} isn't connected or takes no methods`);
    }
    // Nobody can guess it, and only this device's answer to it counts.
    const requestId = randomBytes(12).toString("hex");
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise<MethodAnswer>((answer, reject) => {
        const message = `the device ${deviceId} didn't answer ${name} within ${timeoutMs} ms`;
        timer = setTimeout(() => reject(new CountersignError("timeout", message)), timeoutMs);
        this.#calls.set(requestId, { deviceId, answer });
        link.sendMethod({ name, requestId, body: JSON.stringify(payload ?? null) });
      });
    } finally {
      clearTimeout(timer);
      this.#calls.delete(requestId);
    }
  }

  /** A device's answer to a call; one to another device's call, or that comes too late, is dropped. */
  answered(deviceId: string, requestId: string, status: number, body: Uint8Array): void {
    const call = this.#calls.get(requestId);
    if (call?.deviceId === deviceId) call.answer({ status, payload: jsonOrNull(body) });
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

function jsonOrNull(body: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(body).toString("utf8")) as unknown;
  } catch {
    return null;
  }
}
