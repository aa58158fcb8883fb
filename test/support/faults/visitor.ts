import { readFile } from "node:fs/promises";
import { connectDevice } from "../../../apps/device/connect.ts";
import { isCountersignError } from "../../../lib/domain/errors.ts";
import type { StackFile } from "../../../apps/site/stack/stack-file.ts";
import { pause } from "./killer.ts";
import type { Random } from "./random.ts";
import type { Asked } from "./station.ts";

const MESSAGES = 3;
const VISIT_MS = 10_000;
const BACK_MS = 120_000;
const BETWEEN_MS = 200;

/** Devices that connect to the hub one after the other while things are killed; each tries until it was served. */
export class Visitor {
  /** messages that the hub has acknowledged, by device */
  readonly acknowledged = new Map<string, number>();
  visits = 0;
  failures = 0;
  readonly #hub: StackFile["hub"];
  readonly #random: Random;
  #stopped = false;

  constructor(hub: StackFile["hub"], random: Random) {
    this.#hub = hub;
    this.#random = random;
  }

  /** Until `stop`, and one visit after it. @throws the last failure of a device that isn't served again */
  async run(asked: readonly Asked[]): Promise<void> {
    for (let last = false; !last;) {
      last = this.#stopped;
      const certified = asked.filter(({ chain, keyPem }) => chain !== undefined && keyPem !== undefined);
      if (certified.length > 0) await this.#untilServed(this.#random.pick(certified));
      await pause(BETWEEN_MS);
    }
  }

  /** What is killed was killed: the next visit is the last. */
  stop(): void {
    this.#stopped = true;
  }

  async #untilServed({ deviceId, chain, keyPem }: Asked): Promise<void> {
    const ca = await readFile(this.#hub.ca, "utf8");
    for (const deadline = Date.now() + BACK_MS; ; await pause(BETWEEN_MS)) {
      try {
        const connection = { deviceId, hub: this.#hub.mqtt, ca, chain: chain!, credentials: { key: keyPem! } };
        const { acknowledged } = await connectDevice({ ...connection, messages: MESSAGES, timeoutMs: VISIT_MS });
        this.acknowledged.set(deviceId, (this.acknowledged.get(deviceId) ?? 0) + acknowledged);
        this.visits++;
        return;
      } catch (error) {
        this.failures++;
        if (!isCountersignError(error) || Date.now() > deadline) throw error;
      }
    }
  }
}
