import type { Db } from "../../store/db.ts";
import { insertTelemetry, type TelemetryMessage } from "../../store/hub.ts";
import { CountersignError } from "../../lib/domain/errors.ts";

interface Waiting {
  message: TelemetryMessage;
  done: (error?: unknown) => void;
}

const MAX_BATCH = 500;
const MAX_WAITING = 50_000;

/**
 * Writes telemetry in group commits: what arrives while one insert is under way goes into the next, so that one device
 * waits for one commit and a thousand share it. `write` resolves only when the message is committed; the PUBACK follows.
 */
export class TelemetryWriter {
  readonly #db: Db;
  #waiting: Waiting[] = [];
  #writing: Promise<void> | undefined;
  #written = 0;

  constructor(db: Db) {
    this.#db = db;
  }

  get written(): number {
    return this.#written;
  }

  /** @throws CountersignError `component-unreachable` when the database can't take it: the sender sends again */
  write(message: TelemetryMessage): Promise<void> {
    if (this.#waiting.length >= MAX_WAITING) {
      return Promise.reject(new CountersignError("component-unreachable", "too much telemetry waits for the database"));
    }
    return new Promise((resolve, reject) => {
      this.#waiting.push({ message, done: (error) => (error === undefined ? resolve() : reject(error)) });
      this.#writing ??= this.#drain();
    });
  }

  /** Resolves when nothing waits any more. */
  async idle(): Promise<void> {
    while (this.#writing !== undefined) await this.#writing;
  }

  async #drain(): Promise<void> {
    // One turn of the event loop gathers what the same read brought.
    await new Promise(setImmediate);
    while (this.#waiting.length > 0) await this.#insert(this.#waiting.splice(0, MAX_BATCH));
    this.#writing = undefined;
  }

  async #insert(batch: Waiting[]): Promise<void> {
    try {
      await insertTelemetry(
        this.#db,
        batch.map((entry) => entry.message),
      );
      this.#written += batch.length;
      for (const entry of batch) entry.done();
    } catch (cause) {
      // One message whose content the database refuses must not take its neighbours down (SQLSTATE class 22, 23).
      if (batch.length > 1 && /^2[23]/.test(String((cause as { code?: unknown }).code))) {
        for (const entry of batch) await this.#insert([entry]);
        return;
      }
      const error = new CountersignError("component-unreachable", "telemetry could not be stored", { cause });
      for (const entry of batch) entry.done(error);
    }
  }
}
