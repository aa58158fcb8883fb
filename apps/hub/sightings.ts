import type { Certificate } from "../../lib/pki/certificate.ts";
import { keyId } from "../../lib/pki/spki.ts";
import { sha256Hex } from "../../services/ledger/sha256.ts";
import type { Db } from "../../store/db.ts";
import { insertSightings, type Sighting } from "../../store/sightings.ts";
import type { Logger } from "../http/logger.ts";

const MAX_WAITING = 10_000;
const MAX_KNOWN = 50_000;
const AT_ONCE = 500;

/**
 * Notes each certificate that a device was seen with, once. Nobody waits for it: what can't be kept (the database is
 * away, too many at once) is noted at the device's next connect.
 */
export class Sightings {
  readonly #db: Db;
  readonly #logger: Logger;
  readonly #onKept: () => void;
  /** digests that are in the database or on the way there, the oldest forgotten first */
  readonly #known = new Set<string>();
  #waiting: Sighting[] = [];
  #writing: Promise<void> | undefined;

  constructor(db: Db, logger: Logger, onKept: () => void) {
    this.#db = db;
    this.#logger = logger;
    this.#onKept = onKept;
  }

  /** @param path validated: each certificate is signed by the next one's key; the last is a registered root */
  see(path: readonly Certificate[]): void {
    for (const [i, certificate] of path.slice(0, -1).entries()) {
      const sha256 = sha256Hex(certificate.der);
      if (this.#known.has(sha256) || this.#waiting.length >= MAX_WAITING) continue;
      this.#remember(sha256);
      const issuerKeyId = keyId(path[i + 1]!.spki);
      this.#waiting.push({ sha256, issuerKeyId, certificate: certificate.der });
    }
    if (this.#waiting.length > 0) this.#writing ??= this.#drain();
  }

  /** Resolves when nothing waits any more. */
  async idle(): Promise<void> {
    while (this.#writing !== undefined) await this.#writing;
  }

  async #drain(): Promise<void> {
    await new Promise(setImmediate);
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.splice(0, AT_ONCE);
      try {
        await insertSightings(this.#db, batch);
        this.#onKept();
      } catch (error) {
        for (const { sha256 } of batch) this.#known.delete(sha256);
        this.#logger.warn({ err: error, certificates: batch.length }, "certificates seen aren't kept yet");
      }
    }
    this.#writing = undefined;
  }

  #remember(digest: string): void {
    this.#known.add(digest);
    if (this.#known.size <= MAX_KNOWN) return;
    const [oldest] = this.#known;
    if (oldest !== undefined) this.#known.delete(oldest);
  }
}
