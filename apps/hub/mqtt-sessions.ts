import { Readable } from "node:stream";
import type { Db } from "../../store/db.ts";
import {
  readSubscriptions,
  readSubscriptionsOf,
  type StoredSubscription,
  writeSubscriptions,
} from "../../store/hub-traffic.ts";
import { parseHeard } from "./device-topics.ts";
import { Gather } from "./gather.ts";

/** Connects that share a look into the database. */
const MAX_AT_ONCE = 200;

interface SessionClient {
  id: string;
}

/**
 * What the broker keeps of a session between connections: its subscriptions, in the database, since a client with
 * `clean session` 0 doesn't subscribe again. Messages are kept elsewhere (see Traffic) and never here: no retained
 * ones, no wills, no QoS 2, and none of the broker's own queues.
 */
export class MqttSessions {
  readonly #db: Db | undefined;
  readonly #restored: Gather<string, StoredSubscription[]> | undefined;
  readonly #onAcknowledged: (client: SessionClient, messageId: number) => void;

  /** @param db without one, sessions end with their connection */
  constructor(db?: Db, onAcknowledged: (client: SessionClient, messageId: number) => void = () => undefined) {
    this.#db = db;
    this.#restored = db && new Gather((ids) => readSubscriptionsOf(db, ids), { most: MAX_AT_ONCE });
    this.#onAcknowledged = onAcknowledged;
  }

  async setup(): Promise<void> {}
  async destroy(): Promise<void> {}

  async subscriptionsByClient({ id }: SessionClient): Promise<StoredSubscription[]> {
    return this.#restored?.ask(id) ?? [];
  }

  /** Called with refused subscriptions too. */
  async addSubscriptions({ id }: SessionClient, added: readonly StoredSubscription[]): Promise<void> {
    if (this.#db === undefined) return;
    const known = new Map((await readSubscriptions(this.#db, id)).map((one) => [one.topic, one]));
    for (const { topic, qos } of added) {
      if (parseHeard(topic, id) !== undefined) known.set(topic, { topic, qos: qos === 0 ? 0 : 1 });
    }
    await writeSubscriptions(this.#db, id, [...known.values()]);
  }

  async removeSubscriptions({ id }: SessionClient, topics: readonly string[]): Promise<void> {
    if (this.#db === undefined) return;
    const left = (await readSubscriptions(this.#db, id)).filter(({ topic }) => !topics.includes(topic));
    await writeSubscriptions(this.#db, id, left);
  }

  async cleanSubscriptions({ id }: SessionClient): Promise<void> {
    if (this.#db !== undefined) await writeSubscriptions(this.#db, id, []);
  }

  async subscriptionsByTopic(): Promise<never[]> {
    return [];
  }

  async outgoingEnqueue(): Promise<void> {}
  async outgoingEnqueueCombi(): Promise<void> {}
  async outgoingUpdate(): Promise<void> {}

  /** The broker asks this at PUBACK. */
  async outgoingClearMessageId(client: SessionClient, packet: { messageId: number }): Promise<undefined> {
    this.#onAcknowledged(client, packet.messageId);
    return undefined;
  }

  outgoingStream(): Readable {
    return nothing();
  }

  async storeRetained(): Promise<void> {}
  createRetainedStream(): Readable {
    return nothing();
  }
  createRetainedStreamCombi(): Readable {
    return nothing();
  }

  async putWill(): Promise<void> {}
  async delWill(): Promise<undefined> {
    return undefined;
  }
  streamWill(): Readable {
    return nothing();
  }

  async incomingStorePacket(): Promise<never> {
    throw new Error("no QoS 2");
  }
  async incomingGetPacket(): Promise<never> {
    throw new Error("no QoS 2");
  }
  async incomingDelPacket(): Promise<void> {}
  async cleanIncoming(): Promise<void> {}
  async countOffline(): Promise<{ subsCount: number; clientsCount: number }> {
    return { subsCount: 0, clientsCount: 0 };
  }
  getClientList(): Readable {
    return nothing();
  }
}

/** One a connect: `Readable.from` would bring an iterator and its promises. */
function nothing(): Readable {
  return new Readable({
    read() {
      this.push(null);
    },
  });
}
