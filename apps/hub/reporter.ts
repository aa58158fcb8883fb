import { z } from "zod";
import { CountersignError, isCountersignError } from "../../lib/domain/errors.ts";
import { pemEncode } from "../../lib/pki/pem.ts";
import { exchange, refusalOf } from "../../services/exchange.ts";
import type { Db } from "../../store/db.ts";
import { anyOpenSighting, openSightings, settleSightings } from "../../store/sightings.ts";
import type { Logger } from "../http/logger.ts";

/** A site that is told which of its certificates devices were seen with. */
export interface ReportedSite {
  /** under which the hub follows its CAs' CRLs */
  readonly name: string;
  /** base URL of its gateway */
  readonly url: string;
  /** PEM: its infrastructure CA, and this hub's client certificate of that CA, role `monitor` */
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

const AT_ONCE = 128;
const LOOK_MS = 30_000;
/** A site's CA keys change seldom; a device's first connect may come right after one has changed. */
const KEYS_FOR_MS = 5_000;
const FIRST_PAUSE_MS = 1_000;
const LONGEST_PAUSE_MS = 60_000;
const TIMEOUT_MS = 30_000;
const MAX_ANSWER_BYTES = 256 * 1024;
/** Of DER in one report; as PEM it is a third more, and a site takes a million. */
const MAX_BYTES = 512 * 1024;

const keysAnswer = z.object({ caKeys: z.array(z.string()).max(1000) });
const seenAnswer = z.object({
  results: z.array(z.object({ sha256: z.string(), state: z.enum(["known", "unknown", "foreign"]) })),
});

type Open = Awaited<ReturnType<typeof openSightings>>[number];

interface Site extends ReportedSite {
  keys: readonly string[];
  /** digests of certificates that it didn't take */
  readonly refused: Set<string>;
  keysAt: number;
  pauseMs: number;
  notBefore: number;
  retry: NodeJS.Timeout | undefined;
}

/**
 * Reports certificates to the sites whose CA keys signed them, each once it is answered for good: what is noted in the
 * database outlives this process. A site that can't be reached is asked again, more and more seldom, and holds up no
 * other one.
 */
export class Reporter {
  readonly #db: Db;
  readonly #logger: Logger;
  readonly #sites: readonly Site[];
  readonly #stopping = new AbortController();
  readonly #timer: NodeJS.Timeout;
  #round: Promise<void> | undefined;
  #again = false;

  constructor(db: Db, sites: readonly ReportedSite[], logger: Logger) {
    this.#db = db;
    this.#logger = logger;
    const fresh = { keys: [], keysAt: 0, pauseMs: FIRST_PAUSE_MS, notBefore: 0, retry: undefined };
    this.#sites = sites.map((site) => ({ ...site, ...fresh, refused: new Set<string>() }));
    this.#timer = setInterval(() => this.wake(), LOOK_MS);
    this.wake();
  }

  /** There may be something to report. */
  wake(): void {
    if (this.#stopping.signal.aborted) return;
    if (this.#round !== undefined) {
      this.#again = true;
      return;
    }
    this.#round = this.#report().finally(() => {
      this.#round = undefined;
      if (!this.#again) return;
      this.#again = false;
      this.wake();
    });
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    for (const { retry } of this.#sites) clearTimeout(retry);
    this.#stopping.abort();
    await this.#round;
  }

  async #report(): Promise<void> {
    try {
      if (!(await anyOpenSighting(this.#db))) return;
    } catch (error) {
      this.#logger.warn({ err: error }, "certificates seen can't be read yet");
      return;
    }
    await Promise.all(this.#sites.filter((site) => Date.now() >= site.notBefore).map((site) => this.#tell(site)));
  }

  async #tell(site: Site): Promise<void> {
    try {
      if (Date.now() - site.keysAt > KEYS_FOR_MS) {
        site.keys = keysAnswer.parse(await this.#ask(site, "GET", "api/v1/ca-keys")).caKeys;
        site.keysAt = Date.now();
      }
      while (!this.#stopping.signal.aborted) {
        const open = await openSightings(this.#db, site.keys, [...site.refused], AT_ONCE);
        if (open.length === 0) break;
        await this.#hand(site, atMost(open, MAX_BYTES));
      }
      site.pauseMs = FIRST_PAUSE_MS;
    } catch (error) {
      if (this.#stopping.signal.aborted) return;
      this.#logger.warn({ err: error, site: site.url }, "certificates seen aren't reported yet");
      site.notBefore = Date.now() + site.pauseMs;
      clearTimeout(site.retry);
      site.retry = setTimeout(() => this.wake(), site.pauseMs + 1);
      site.pauseMs = Math.min(2 * site.pauseMs, LONGEST_PAUSE_MS);
    }
  }

  /** Reports these; where the site refuses them for what they are, each by itself, so that one holds up no other. */
  async #hand(site: Site, open: readonly Open[]): Promise<void> {
    const certificates = open.map(({ certificate }) => pemEncode("CERTIFICATE", certificate)).join("");
    let answer: unknown;
    try {
      answer = await this.#ask(site, "POST", "api/v1/seen", { certificates });
    } catch (error) {
      if (!isCountersignError(error) || !["invalid", "unverified"].includes(error.kind)) throw error;
      if (open.length > 1) for (const one of open) await this.#hand(site, [one]);
      else this.#refused(site, open[0]!.sha256, error);
      return;
    }
    const { results } = seenAnswer.parse(answer);
    const asked = new Set(open.map(({ sha256 }) => sha256));
    const answered = results.filter(({ sha256 }) => asked.has(sha256));
    if (answered.length < asked.size) throw new Error("its answer leaves certificates out");
    await settleSightings(this.#db, answered);
    for (const { sha256, state } of answered) {
      if (state !== "unknown") continue;
      this.#logger.error({ certificate: sha256, site: site.url }, "a device has a certificate no ledger holds");
    }
  }

  /** It stays unanswered in the database, and is asked about again by the next process. */
  #refused(site: Site, sha256: string, error: unknown): void {
    site.refused.add(sha256);
    this.#logger.error(
      { err: error, certificate: sha256, site: site.url },
      "a site can't judge a certificate of its CA",
    );
  }

  async #ask(site: Site, method: string, path: string, body?: unknown): Promise<unknown> {
    return askSite(site, method, path, this.#stopping.signal, body);
  }
}

/** One question to a site's gateway, as this hub. @throws CountersignError its refusal; whatever keeps it from answering */
export async function askSite(
  site: ReportedSite,
  method: string,
  path: string,
  signal: AbortSignal,
  body?: unknown,
): Promise<unknown> {
  const answer = await exchange({
    url: new URL(path, site.url.replace(/\/?$/, "/")),
    method,
    tls: site,
    body: body === undefined ? undefined : { bytes: JSON.stringify(body), type: "application/json" },
    timeoutMs: TIMEOUT_MS,
    maxAnswerBytes: MAX_ANSWER_BYTES,
    signal,
  });
  if (answer.status !== 200) {
    throw refusalOf(answer) ?? new CountersignError("component-unreachable", `${site.url}: HTTP ${answer.status}`);
  }
  return JSON.parse(Buffer.from(answer.body).toString("utf8")) as unknown;
}

/** The first of them, at least one, with so many bytes together. */
function atMost(open: readonly Open[], bytes: number): readonly Open[] {
  let total = 0;
  const end = open.findIndex(({ certificate }, i) => (total += certificate.length) > bytes && i > 0);
  return end === -1 ? open : open.slice(0, end);
}
