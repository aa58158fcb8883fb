import type { Db } from "../../store/db.ts";
import { insertTelemetry, type TelemetryMessage } from "../../store/hub-telemetry.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { Gather } from "./gather.ts";

/** IoT Hub's limit. */
export const MAX_MESSAGE_BYTES = 256 * 1024;
const MAX_BATCH = 500;
const MAX_BATCH_BYTES = 4 << 20;
const MAX_WAITING = 50_000;
const MAX_WAITING_BYTES = 64 << 20;

/**
 * Writes telemetry in group commits. `write` resolves only when the message is committed; the PUBACK follows. What waits
 * is bounded in number and in bytes: a database that is slow makes devices send again, and not this process grow.
 */
export class TelemetryWriter {
  readonly #gather: Gather<TelemetryMessage, undefined>;
  #written = 0;

  constructor(db: Db) {
    const limits = { most: MAX_BATCH, mostBytes: MAX_BATCH_BYTES };
    this.#gather = new Gather(async (batch) => {
      await insertTelemetry(db, batch);
      this.#written += batch.length;
      return batch.map(() => undefined);
    }, limits);
  }

  get written(): number {
    return this.#written;
  }

  get waiting(): number {
    return this.#gather.waiting.asks;
  }

  /** Senders are sent away. */
  get full(): boolean {
    const { asks, bytes } = this.#gather.waiting;
    return asks >= MAX_WAITING || bytes >= MAX_WAITING_BYTES;
  }

  /** @throws CountersignError `component-unreachable` when the database can't take it: the sender sends again */
  async write(message: TelemetryMessage): Promise<void> {
    if (this.full) {
      throw new CountersignError("component-unreachable", "too much telemetry waits for the database");
    }
    try {
      await this.#gather.ask(message, message.body.length);
    } catch (cause) {
      throw new CountersignError("component-unreachable", "telemetry could not be stored", { cause });
    }
  }

  /** Resolves when nothing waits any more. */
  idle(): Promise<void> {
    return this.#gather.idle();
  }
}
