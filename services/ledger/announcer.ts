import type { Db } from "../../store/db.ts";
import { announcePending } from "../../store/ledger.ts";

/**
 * Tells the sequencer that acts were queued, after their commit. Told at once when it leads in this process; else by a
 * notification, of which one is under way at a time however many commits there are. One that gets lost costs a second:
 * so often the sequencer looks by itself.
 */
export class Announcer {
  readonly #db: Db;
  readonly #wake: () => boolean;
  #due = false;
  #sending = false;

  /** @param wake wakes the sequencer of this process; false when it doesn't lead */
  constructor(db: Db, wake: () => boolean = () => false) {
    this.#db = db;
    this.#wake = wake;
  }

  readonly announce = (): void => {
    if (this.#wake()) return;
    this.#due = true;
    if (this.#sending) return;
    this.#sending = true;
    void this.#send();
  };

  async #send(): Promise<void> {
    while (this.#due) {
      this.#due = false;
      await announcePending(this.#db).catch(() => undefined);
    }
    this.#sending = false;
  }
}
