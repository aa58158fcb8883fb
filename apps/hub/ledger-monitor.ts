import { CountersignError } from "../../lib/domain/errors.ts";
import { httpSource } from "../../lib/ledger/http.ts";
import type { MonitoredLog } from "../../lib/ledger/monitor/follow.ts";
import { monitorRound } from "../../lib/ledger/monitor/monitor.ts";
import { parseVkey } from "../../lib/ledger/note.ts";
import { parseCertificate, type Certificate } from "../../lib/pki/certificate.ts";
import { keyId } from "../../lib/pki/spki.ts";
import { webCryptoVerify } from "../../lib/pki/verify.ts";
import { nodeSha256, sha256Hex } from "../../services/ledger/sha256.ts";
import type { Db } from "../../store/db.ts";
import {
  asOnlyMonitor,
  forgetLedgers,
  forgetLogged,
  type FollowedLedger,
  listLedgers,
  loggedAmong,
  MonitorTables,
  noteUnlogged,
  storeLook,
  unloggedSince,
} from "../../store/hub-monitor.ts";
import type { Logger } from "../http/logger.ts";
import type { HubConfig } from "./config.ts";
import { Gather } from "./gather.ts";
import type { RegisteredCa } from "./registry.ts";

export type MonitorSettings = NonNullable<HubConfig["monitor"]>;

/** A device that connects doesn't wait longer for ledgers that are slow. */
const LOOK_MS = 3_000;
/** Looks that devices cause come no closer. */
const LEAST_PAUSE_MS = 250;
const TIMEOUT_MS = 5_000;
const WITNESS_TIMEOUT_MS = 2_000;
/** A ledger that has grown by much is taken in by pieces: after each, so many times as long belongs to others. */
const REST = 2;
const LONGEST_REST_MS = 1_000;
/** Of certificates that a round looks for. */
const A_ROUND = 512;
const MAX_KNOWN = 100_000;

/**
 * Follows the parties' ledgers, and knows which certificates they hold. A ledger that is out of reach is an alarm and
 * stops nothing.
 */
export class LedgerMonitor {
  readonly #db: Db;
  readonly #logger: Logger;
  readonly #settings: MonitorSettings;
  readonly #store: MonitorTables;
  readonly #logs: readonly MonitoredLog[];
  readonly #stopping = new AbortController();
  /** digests of certificates that a ledger holds, the oldest forgotten first: a ledger forgets nothing */
  readonly #known = new Set<string>();
  readonly #lookups: Gather<string, boolean>;
  readonly #notes: Gather<{ sha256: string; certificate: Uint8Array; caName: string }, undefined>;
  #round: Promise<void> | undefined;
  #next: Promise<void> | undefined;
  #startedAt = 0;
  /** devices that wait for a look */
  #waiting = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(db: Db, logger: Logger, settings: MonitorSettings) {
    this.#db = db;
    this.#logger = logger;
    this.#settings = settings;
    this.#store = new MonitorTables(db);
    this.#logs = settings.ledgers.map(monitored);
    this.#lookups = new Gather(
      async (digests) => {
        const logged = await loggedAmong(db, digests);
        return digests.map((digest) => logged.has(digest));
      },
      { most: 1000 },
    );
    this.#notes = new Gather(
      async (seen) => {
        await noteUnlogged(db, seen);
        return seen.map(() => undefined);
      },
      { most: 200 },
    );
  }

  async start(): Promise<void> {
    await forgetLedgers(
      this.#db,
      this.#settings.ledgers.map(({ party }) => party),
    );
    this.#later(0);
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    clearTimeout(this.#timer);
    await this.#round;
    await this.#lookups.idle();
    await this.#notes.idle();
  }

  /**
   * Holds a device's path against the ledgers, as its CA's policy says: `allow` doesn't look, `alarm` lets it in and has it
   * looked for, `refuse` looks at once and lets in what a ledger holds. Where the ledger that would hold it can't be
   * followed to its end, `refuse` lets it in with an alarm, unless `monitor.unreachable` says otherwise.
   * @param path leaf first, the registered CA last
   * @throws CountersignError `hub-unlogged`
   */
  async judge(path: readonly Certificate[], digests: readonly string[], ca: RegisteredCa): Promise<void> {
    if (ca.unlogged === "allow") return;
    let unknown = await this.#unlogged(digests.slice(0, -1));
    if (unknown.length === 0) return;
    if (ca.unlogged === "refuse") {
      await this.#lookNow();
      unknown = await this.#unlogged(unknown);
      if (unknown.length === 0) return;
    }
    const certificates = unknown.map((sha256) => {
      const certificate = path[digests.indexOf(sha256)]!;
      return { sha256, certificate: certificate.der, caName: ca.name };
    });
    await Promise.all(certificates.map((one) => this.#notes.ask(one)));
    if (ca.unlogged !== "refuse") return;
    const ledgers = await listLedgers(this.#db);
    for (const sha256 of unknown) {
      const at = digests.indexOf(sha256);
      const blind = this.#cantTell(keyId(path[at + 1]!.spki), ledgers);
      const what = `certificate ${at} of its chain`;
      if (blind === undefined) throw unlogged(`no ledger that this hub follows holds ${what}`);
      if (this.#settings.unreachable === "refuse") {
        throw unlogged(`${what} isn't known, and the ledger of ${blind} can't be followed now`);
      }
      this.#logger.error({ certificate: sha256, ledger: blind }, "let in without a ledger to ask: it is out of reach");
    }
  }

  /** Whose ledger would have to be asked about a certificate of this key, and can't be; undefined: all can. */
  #cantTell(issuerKeyId: string, ledgers: readonly FollowedLedger[]): string | undefined {
    const followed = new Map(ledgers.map((one) => [one.party, one]));
    const issuer = ledgers.find(({ ca }) => ca !== null && keyId(ca) === issuerKeyId);
    const asked = issuer === undefined ? this.#settings.ledgers.map(({ party }) => party) : [issuer.party];
    // A ledger that contradicts itself is there, and what it doesn't show is unlogged.
    return asked.find((party) => !["followed", "refused"].includes(followed.get(party)?.state ?? ""));
  }

  async #unlogged(digests: readonly string[]): Promise<string[]> {
    const unknown = digests.filter((digest) => !this.#known.has(digest));
    const answers = await Promise.all(unknown.map((digest) => this.#lookups.ask(digest)));
    return unknown.filter((digest, i) => {
      if (answers[i] === true) this.#remember(digest);
      return answers[i] !== true;
    });
  }

  #remember(digest: string): void {
    this.#known.add(digest);
    if (this.#known.size > MAX_KNOWN) this.#known.delete(this.#known.values().next().value!);
  }

  /** Resolves when a look has ended that began after the call, or when that takes too long. */
  async #lookNow(): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, LOOK_MS)));
    this.#waiting++;
    await Promise.race([this.#look(), late]).finally(() => this.#waiting--);
    clearTimeout(timer);
  }

  /** A line that certifies at full speed shares its machine with who follows it: it isn't to stand still for that. */
  async #rest(tookMs: number): Promise<void> {
    if (this.#waiting > 0 || this.#stopping.signal.aborted) return;
    await new Promise((wake) => setTimeout(wake, Math.min(REST * tookMs, LONGEST_REST_MS)));
  }

  #later(ms: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#look(), ms);
  }

  /** Devices that come together share a look. */
  #look(): Promise<void> {
    if (this.#stopping.signal.aborted) return Promise.resolve();
    if (this.#round !== undefined) {
      this.#next ??= this.#round.then(async () => {
        const pause = this.#startedAt + LEAST_PAUSE_MS - Date.now();
        if (pause > 0) await new Promise((wake) => setTimeout(wake, pause));
        this.#next = undefined;
        return this.#look();
      });
      return this.#next;
    }
    this.#startedAt = Date.now();
    this.#round = this.#run()
      .catch((error: unknown) => {
        if (!this.#stopping.signal.aborted) this.#logger.error({ err: error }, "the ledgers can't be followed");
      })
      .finally(() => {
        this.#round = undefined;
        if (!this.#stopping.signal.aborted) this.#later(this.#settings.everySeconds * 1000);
      });
    return this.#round;
  }

  async #run(): Promise<void> {
    const { graceSeconds, lagSeconds, rootSha256 } = this.#settings;
    const began = new Date();
    const mine = await asOnlyMonitor(this.#db, async () => {
      const wanted = await unloggedSince(this.#db, graceSeconds * 1000, A_ROUND);
      const round = await monitorRound(
        {
          store: this.#store,
          logs: this.#logs,
          verify: webCryptoVerify,
          sha256: nodeSha256,
          ...(rootSha256 === undefined ? {} : { rootSha256 }),
          lagMs: lagSeconds * 1000,
          signal: this.#stopping.signal,
          rest: (tookMs) => this.#rest(tookMs),
        },
        wanted.map(parseCertificate),
      );
      for (const view of round.ledgers) await storeLook(this.#db, view, began);
      const whole = round.ledgers.every(({ state }) => state === "followed" || state === "refused");
      for (const { sha256, state } of round.seen) {
        // Signed by none of the parties, and yet below a registered CA: somebody signed a CA beside all ledgers.
        if (state !== "foreign" || !whole) continue;
        const message = `a device came with certificate ${sha256}, which no party's CA key signed and no ledger holds`;
        await this.#store.raise({ code: "unlogged-certificate", party: "-", subject: sha256, message });
      }
      await forgetLogged(this.#db);
      for (const { code, party, message, fresh } of await this.#store.alarms()) {
        if (fresh) this.#logger.error({ code, party }, `alarm: ${message}`);
      }
      return true;
    });
    // Another process of this hub is at it: what it finds counts here too.
    if (mine === undefined) await new Promise((wake) => setTimeout(wake, LEAST_PAUSE_MS));
  }
}

function monitored({ party, url, vkey, witnesses }: MonitorSettings["ledgers"][number]): MonitoredLog {
  const log = parseVkey(vkey);
  const keys = witnesses.map((witness) => ({ ...witness, key: parseVkey(witness.vkey) }));
  const seen = `${sha256Hex(Buffer.from(log.name))}/checkpoint`;
  const views = keys.flatMap(({ key, url: prefix }) =>
    prefix === undefined
      ? []
      : [[key.name, () => httpSource(prefix, { timeoutMs: WITNESS_TIMEOUT_MS })(seen)] as const],
  );
  return {
    party,
    log,
    witnesses: keys.map(({ key }) => key),
    fetch: httpSource(url, { timeoutMs: TIMEOUT_MS }),
    views: new Map(views),
  };
}

function unlogged(message: string): CountersignError {
  return new CountersignError("hub-unlogged", message);
}
