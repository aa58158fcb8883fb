import { randomBytes } from "node:crypto";
import { CountersignError } from "../../lib/domain/errors.ts";
import type { Db } from "../../store/db.ts";
import {
  answerCall,
  deleteCall,
  insertCall,
  processOf,
  readCall,
  takeCall,
  withdrawCall,
} from "../../store/hub-relay.ts";
import type { Logger } from "../http/logger.ts";
import type { DeviceLink } from "./traffic.ts";

export interface MethodAnswer {
  status: number;
  payload: unknown;
}

/** In which another process must have taken a call, or the device isn't there either. */
const TAKE_MS = 1_000;

/** Calls on devices at this process and, by way of the database, at the others on it. */
export class MethodCalls {
  readonly #db: Db;
  readonly #logger: Logger;
  readonly #processId: string;
  readonly #linkOf: (deviceId: string) => DeviceLink | undefined;
  /** On their way to a device here, by request ID. */
  readonly #here = new Map<string, { deviceId: string; answer: (answer: MethodAnswer) => void }>();
  /** On their way to another process: called when their row may have changed. */
  readonly #elsewhere = new Map<string, () => void>();

  constructor(options: {
    db: Db;
    logger: Logger;
    processId: string;
    linkOf: (deviceId: string) => DeviceLink | undefined;
  }) {
    this.#db = options.db;
    this.#logger = options.logger;
    this.#processId = options.processId;
    this.#linkOf = options.linkOf;
  }

  /**
   * Calls a method on a connected device and waits for its answer.
   * @throws CountersignError `hub-device-offline` when it isn't connected or takes no methods; `timeout`
   */
  async invoke(deviceId: string, name: string, payload: unknown, timeoutMs: number): Promise<MethodAnswer> {
    const body = JSON.stringify(payload ?? null);
    const link = this.#linkOf(deviceId);
    if (link?.wants("methods")) return this.#call(link, { deviceId, name, body }, timeoutMs);
    const at = await processOf(this.#db, deviceId);
    if (at === undefined || at === this.#processId) throw offline(deviceId);
    return this.#ask({ deviceId, name, body }, timeoutMs);
  }

  /** A device's answer to a call; one to another device's call, or that comes too late, is dropped. */
  answered(deviceId: string, requestId: string, status: number, body: Uint8Array): void {
    const call = this.#here.get(requestId);
    if (call?.deviceId === deviceId) call.answer({ status, payload: jsonOrNull(body) });
  }

  /** Another process asks for a device. Never rejects. */
  async asked(id: string, deviceId: string): Promise<void> {
    const link = this.#linkOf(deviceId);
    if (!link?.wants("methods") || this.#elsewhere.has(id)) return;
    try {
      const taken = await takeCall(this.#db, id);
      if (taken === undefined) return;
      const { name, payload: body, left } = taken;
      const { status, payload } = await this.#call(link, { deviceId, name, body }, left);
      await answerCall(this.#db, id, status, JSON.stringify(payload));
    } catch (error) {
      // Its asker's own time runs out as well.
      this.#logger.warn({ err: error, deviceId }, "a call for another hub process has no answer");
    }
  }

  /** A call's row has changed; without an ID, any of them may have. */
  settled(id?: string): void {
    if (id !== undefined) this.#elsewhere.get(id)?.();
    else for (const look of this.#elsewhere.values()) look();
  }

  async #call(
    link: DeviceLink,
    { deviceId, name, body }: { deviceId: string; name: string; body: string },
    timeoutMs: number,
  ): Promise<MethodAnswer> {
    const requestId = callId();
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise<MethodAnswer>((answer, reject) => {
        timer = setTimeout(() => reject(late(deviceId, name, timeoutMs)), timeoutMs);
        this.#here.set(requestId, { deviceId, answer });
        link.sendMethod({ name, requestId, body });
      });
    } finally {
      clearTimeout(timer);
      this.#here.delete(requestId);
    }
  }

  async #ask(
    { deviceId, name, body }: { deviceId: string; name: string; body: string },
    timeoutMs: number,
  ): Promise<MethodAnswer> {
    const id = callId();
    const [start, deadline] = [Date.now(), Date.now() + timeoutMs];
    let changed = false;
    let wake = (): void => undefined;
    let timer: NodeJS.Timeout | undefined;
    this.#elsewhere.set(id, () => {
      changed = true;
      wake();
    });
    try {
      await insertCall(this.#db, { id, deviceId, name, payload: body, timeoutMs });
      for (let taken = false; ;) {
        const until = taken ? deadline : Math.min(deadline, start + TAKE_MS);
        if (!changed) {
          await new Promise<void>((resolve) => {
            wake = resolve;
            timer = setTimeout(resolve, Math.max(0, until - Date.now()));
          });
          clearTimeout(timer);
        }
        changed = false;
        const state = await readCall(this.#db, id);
        if (state === undefined) throw offline(deviceId);
        if (state.status !== null) return { status: state.status, payload: JSON.parse(state.answer ?? "null") };
        taken = state.taken;
        if (Date.now() >= deadline) throw late(deviceId, name, timeoutMs);
        if (!taken && Date.now() >= start + TAKE_MS && (await withdrawCall(this.#db, id))) throw offline(deviceId);
      }
    } finally {
      this.#elsewhere.delete(id);
      await deleteCall(this.#db, id).catch(() => undefined);
    }
  }
}

/** Nobody can guess it, and only the asked device's answer to it counts. */
const callId = (): string => randomBytes(12).toString("hex");

function offline(deviceId: string): CountersignError {
  return new CountersignError("hub-device-offline", `the device ${deviceId} isn't connected or takes no methods`);
}

function late(deviceId: string, name: string, timeoutMs: number): CountersignError {
  return new CountersignError("timeout", `the device ${deviceId} didn't answer ${name} within ${timeoutMs} ms`);
}

function jsonOrNull(body: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(body).toString("utf8")) as unknown;
  } catch {
    return null;
  }
}
