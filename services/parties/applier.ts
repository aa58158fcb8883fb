import type { ErrorKind } from "../../lib/domain/error-codes.ts";
import { isCountersignError } from "../../lib/domain/errors.ts";
import type { MessageType } from "../../lib/records/message.ts";
import type { Db } from "../../store/db.ts";
import { keepListening, type Subscription } from "../../store/listen.ts";
import { INBOX_CHANNEL, markApplied, unappliedInbox, type UnappliedMessage } from "../../store/messages.ts";

const FINAL: ReadonlySet<ErrorKind> = new Set(["invalid", "refused", "unverified"]);
const POLL_MS = 2_000;
const PAGE = 256;

/**
 * Hands a stored message to the workflow it is for. Called at least once for each message, in order for each sender:
 * starting or signalling by business id makes the repetition harmless. A thrown refusal ends the matter, anything else
 * means: again, later.
 */
export type MessageHandler = (message: { id: string; sender: string; inReplyTo: string | null }) => Promise<void>;

export type MessageHandlers = Readonly<Partial<Record<MessageType, MessageHandler>>>;

export interface ApplierOptions {
  readonly db: Db;
  readonly handlers: MessageHandlers;
  readonly onFault?: (id: string, error: unknown) => void;
}

/** Takes what the inbox stored to where it has its effect. */
export class Applier {
  readonly #options: ApplierOptions;
  #poll: NodeJS.Timeout | undefined;
  #subscription: Subscription | undefined;
  #running: Promise<void> | undefined;
  #again = false;
  #stopped = false;

  constructor(options: ApplierOptions) {
    this.#options = options;
  }

  async start(): Promise<void> {
    // The poll stands in while the subscription is lost.
    this.#poll = setInterval(() => this.wake(), POLL_MS);
    this.#subscription = await keepListening(this.#options.db, INBOX_CHANNEL, () => this.wake());
    this.wake();
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearInterval(this.#poll);
    this.#subscription?.close();
    await this.#running;
  }

  wake(): void {
    if (this.#stopped) return;
    if (this.#running) {
      this.#again = true;
      return;
    }
    this.#running = this.#applyAll().finally(() => {
      this.#running = undefined;
      if (!this.#again) return;
      this.#again = false;
      this.wake();
    });
  }

  async #applyAll(): Promise<void> {
    // A sender whose message failed waits with all its later ones until the next round.
    const held = new Set<string>();
    try {
      for (let full = true; full;) {
        const page = await unappliedInbox(this.#options.db, PAGE, [...held]);
        full = page.length === PAGE;
        for (const message of page) {
          if (this.#stopped) return;
          if (!held.has(message.sender) && !(await this.#apply(message))) held.add(message.sender);
        }
      }
    } catch (error) {
      this.#options.onFault?.("", error);
    }
  }

  /** False: the message has had no effect yet, and is tried again. */
  async #apply(message: UnappliedMessage): Promise<boolean> {
    try {
      await this.#options.handlers[message.type]?.(message);
      await markApplied(this.#options.db, message.id);
    } catch (error) {
      this.#options.onFault?.(message.id, error);
      // A message that can have no effect stays without one.
      if (!isCountersignError(error) || !FINAL.has(error.kind)) return false;
      await markApplied(this.#options.db, message.id, error.code);
    }
    return true;
  }
}
