import { ed25519Raw, KEY_TYPE, noteKey, type NoteKey } from "../../lib/ledger/note.ts";
import { formatPolicy, parsePolicy } from "../../lib/ledger/policy.ts";
import { Acts } from "../../services/ledger/acts.ts";
import { createLedger, Sequencer } from "../../services/ledger/sequencer.ts";
import { WitnessFeed } from "../../services/witness/feed.ts";
import { inTransaction, type Db } from "../../store/db.ts";
import { opensslVerify, testKey, type TestKey } from "./memory-log.ts";
import { siteDatabase } from "./parties.ts";

const digest = (n: number): string => n.toString(16).padStart(64, "0");

/** Whom a log asks for cosignatures. */
export interface Asked {
  readonly key: NoteKey;
  /** submission prefix */
  readonly url: string;
}

/** A real ledger with its sequencer, and the way to have it witnessed, without the rest of a site. */
export class LogSite {
  readonly db: Db;
  readonly signer: TestKey;
  readonly key: NoteKey;
  readonly faults: [string, unknown][] = [];
  readonly #acts: Acts;
  readonly #sequencer: Sequencer;
  readonly #feeds: WitnessFeed[] = [];
  #recorded = 0;

  private constructor(db: Db, origin: string, signer: TestKey) {
    this.db = db;
    this.signer = signer;
    this.key = noteKey(origin, KEY_TYPE.ed25519, ed25519Raw(signer.spki));
    this.#sequencer = new Sequencer({ db, origin, signer, actKeys: () => [], verify: opensslVerify });
    this.#acts = new Acts({ db, origin, party: "factory-y" });
  }

  static async create(origin: string): Promise<LogSite> {
    const db = await siteDatabase();
    const signer = testKey("ed25519");
    await createLedger({ db, origin, signer });
    const site = new LogSite(db, origin, signer);
    site.#sequencer.start();
    return site;
  }

  /** Appends line records; the last one's leaf hash, and the size that holds it, under a signed checkpoint. */
  async record(count = 1): Promise<{ leafHash: string; size: number }> {
    const lines = await inTransaction(this.db, (tx) =>
      this.#acts.recordLines(
        tx,
        Array.from({ length: count }, () => {
          const n = ++this.#recorded;
          return {
            type: "intent" as const,
            workflowId: "lot/L1",
            stepKey: `intent-${n}`,
            subject: [{ name: `batch ${n}`, digest: { sha256: digest(n) } }],
            fields: { lot: "L1", manifest: digest(n), tbsRoot: digest(n), count: 1 },
          };
        }),
      ),
    );
    const last = lines.at(-1)!;
    const [included] = await this.#acts.waitIncluded([last.retryKey], { timeoutMs: 10_000 });
    return { leafHash: last.leafHash, size: included!.index + 1 };
  }

  policy(witnesses: readonly Asked[], threshold: number | "all" | "any" = "all"): string {
    const urls = new Map(witnesses.map((w) => [w.key, w.url]));
    return formatPolicy(this.key, [...urls.keys()], threshold, urls);
  }

  async feed(policy: string): Promise<WitnessFeed> {
    const parsed = parsePolicy(policy);
    const feed = new WitnessFeed({
      db: this.db,
      log: this.key,
      verify: opensslVerify,
      policy: async () => parsed,
      intervalMs: 20,
      timeoutMs: 1000,
      pauseMs: { first: 100, last: 400 },
      onFault: (...fault) => this.faults.push(fault),
    });
    this.#feeds.push(feed);
    await feed.start();
    return feed;
  }

  async stopFeeds(): Promise<void> {
    await Promise.all(this.#feeds.splice(0).map((feed) => feed.stop()));
    this.faults.length = 0;
  }

  async close(): Promise<void> {
    await this.stopFeeds();
    await this.#sequencer.stop();
    this.#acts.close();
    await this.db.end();
  }
}
