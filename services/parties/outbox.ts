import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { errorCodeOf } from "../../lib/domain/errors.ts";
import { ERROR_KINDS, type ErrorCode } from "../../lib/domain/error-codes.ts";
import { canonicalJson } from "../../lib/domain/json.ts";
import type { Signer } from "../../lib/domain/signing.ts";
import type { Body, MessageType } from "../../lib/records/message.ts";
import { inTransaction, type Db, type Queryable } from "../../store/db.ts";
import { keepListening, type Subscription } from "../../store/listen.ts";
import {
  markDelivered,
  nextMessage,
  OUTBOX_CHANNEL,
  outPosition,
  queueMessage,
  receiversWithMail,
  returnNumber,
  storeEnvelope,
  type QueuedMessage,
} from "../../store/messages.ts";
import { getPeer, type Peer } from "../../store/parties.ts";
import { postEnvelope } from "./delivery.ts";
import { sha256Hex } from "../ledger/sha256.ts";
import { encodeWire, signEnvelope } from "./envelope.ts";

const LIFETIME_MS = 30 * 86_400_000;
const POLL_MS = 2_000;
const FIRST_PAUSE_MS = 250;
const LAST_PAUSE_MS = 30_000;

/**
 * Queues a message to a peer in the caller's transaction; `retryKey` names it for good.
 * @throws nothing of its own: whether the receiver takes it is the outbox's to find out
 */
export async function enqueue<T extends MessageType>(
  tx: Queryable,
  message: { receiver: string; type: T; retryKey: string; body: Body<T>; inReplyTo?: string },
): Promise<void> {
  const body = canonicalJson(message.body);
  await queueMessage(tx, {
    id: randomUUID(),
    receiver: message.receiver,
    type: message.type,
    retryKey: message.retryKey,
    body,
    bodySha256: sha256Hex(body),
    ...(message.inReplyTo === undefined ? {} : { inReplyTo: message.inReplyTo }),
  });
}

export interface OutboxOptions {
  readonly db: Db;
  readonly party: string;
  /** the act key: signs every envelope of this party */
  readonly signer: Signer;
  readonly keyId: string;
  /** Told before a refusal is stored, hence at least once: the receiver said no for good and kept nothing. */
  readonly onRefused?: (message: QueuedMessage, refusal: { code: ErrorCode; message: string }) => Promise<void>;
  readonly onFault?: (receiver: string, error: unknown) => void;
  readonly now?: () => Date;
}

/**
 * Delivers queued messages: one at a time and in order for each receiver, receivers side by side, at least once. A
 * message is numbered and signed once; what is sent again are the stored bytes. Several processes may run one: numbers
 * are handed out under a lock, and the receiver applies a repeated envelope once.
 */
export class Outbox {
  readonly #options: OutboxOptions;
  readonly #now: () => Date;
  readonly #abort = new AbortController();
  readonly #lanes = new Map<string, Promise<void>>();
  #subscription: Subscription | undefined;
  #poll: NodeJS.Timeout | undefined;

  constructor(options: OutboxOptions) {
    this.#options = options;
    this.#now = options.now ?? (() => new Date());
  }

  async start(): Promise<void> {
    // The poll stands in while the subscription is lost.
    this.#poll = setInterval(() => void this.#look(), POLL_MS);
    this.#subscription = await keepListening(this.#options.db, OUTBOX_CHANNEL, () => void this.#look());
    await this.#look();
  }

  /** Ends deliveries under way (their answer, if any, is asked for again at the next start) and waits for the lanes. */
  async stop(): Promise<void> {
    this.#abort.abort();
    clearInterval(this.#poll);
    this.#subscription?.close();
    await Promise.allSettled(this.#lanes.values());
  }

  async #look(): Promise<void> {
    try {
      for (const receiver of await receiversWithMail(this.#options.db)) {
        if (this.#lanes.has(receiver) || this.#abort.signal.aborted) continue;
        const lane = this.#deliverAll(receiver).finally(() => this.#lanes.delete(receiver));
        this.#lanes.set(receiver, lane);
      }
    } catch (error) {
      this.#options.onFault?.("", error);
    }
  }

  async #deliverAll(receiver: string): Promise<void> {
    let pause = FIRST_PAUSE_MS;
    while (!this.#abort.signal.aborted) {
      try {
        const message = await nextMessage(this.#options.db, receiver);
        if (message === undefined) return;
        await this.#deliver(await getPeer(this.#options.db, receiver), message);
        pause = FIRST_PAUSE_MS;
      } catch (error) {
        if (this.#abort.signal.aborted) return;
        this.#options.onFault?.(receiver, error);
        const { signal } = this.#abort;
        await sleep(pause * (0.75 + Math.random() / 2), undefined, { signal }).catch(() => undefined);
        pause = Math.min(2 * pause, LAST_PAUSE_MS);
      }
    }
  }

  async #deliver(peer: Peer, queued: QueuedMessage): Promise<void> {
    const { db } = this.#options;
    const envelope = queued.envelope ?? (await this.#sign(queued));
    if (envelope === undefined) return;
    try {
      await postEnvelope(peer.contact, encodeWire(envelope, queued.body), this.#abort.signal);
      await markDelivered(db, queued.id);
    } catch (error) {
      const code = errorCodeOf(error);
      if (code === "envelope-expired") {
        // The receiver said that it hasn't applied it: the number is free, and a fresh envelope takes it.
        await inTransaction(db, (tx) => returnNumber(tx, queued.id, { again: true }));
      }
      // Thrown: tried again after a pause, also where two clocks will never agree.
      if (code === "envelope-expired" || !isFinal(code)) throw error;
      const refusal = { code, message: (error as Error).message };
      await this.#options.onRefused?.(queued, refusal);
      await inTransaction(db, (tx) => returnNumber(tx, queued.id, refusal));
    }
  }

  /** Gives the message the next number and signs it. Undefined when another process has taken that number. */
  async #sign(queued: QueuedMessage): Promise<Uint8Array | undefined> {
    const { db, party, keyId, signer } = this.#options;
    const last = await outPosition(db, queued.receiver);
    const created = this.#now();
    const envelope = await signEnvelope(
      {
        schema: 1,
        id: queued.id,
        type: queued.type,
        sender: party,
        keyId,
        receiver: queued.receiver,
        epoch: last.epoch,
        sequence: last.sequence + 1,
        previous: last.digest,
        created: created.toISOString(),
        expires: new Date(created.getTime() + LIFETIME_MS).toISOString(),
        ...(queued.inReplyTo === null ? {} : { inReplyTo: queued.inReplyTo }),
        body: { sha256: queued.bodySha256, size: queued.body.length },
      },
      signer,
    );
    const stored = await inTransaction(db, (tx) =>
      storeEnvelope(tx, {
        id: queued.id,
        receiver: queued.receiver,
        epoch: last.epoch,
        sequence: last.sequence + 1,
        envelope: envelope.bytes,
        sha256: envelope.sha256,
      }),
    );
    return stored ? envelope.bytes : undefined;
  }
}

/**
 * A refusal that the same message will meet again. Not final: a receiver that is behind (it may be restoring, or may
 * not have stored our invitation's acceptance yet), and anything that isn't its own word.
 */
function isFinal(code: ErrorCode): boolean {
  if (code === "envelope-out-of-order" || code === "sender-unknown" || code === "not-found") return false;
  return ["invalid", "refused", "unverified"].includes(ERROR_KINDS[code]);
}
