import type {
  Alarm,
  AlarmCode,
  Fact,
  MonitorStore,
  Position,
  SlotFact,
  SlotHolder,
  WitnessMark,
} from "../lib/ledger/monitor/store.ts";
import type { SplitView } from "../lib/records/split-view.ts";
import { ints, texts } from "./packed.ts";
import { inTransaction, type Db, type Queryable, type Tx } from "./db.ts";

/** Alarms of one kind over one ledger's entries: one that is wrong throughout must not fill the database. */
const MAX_ALARMS_A_CODE = 256;

/** A monitor's memory in the hub's database. One process at a time takes entries in (`tryMonitorLock`). */
export class MonitorTables implements MonitorStore {
  readonly #db: Db;

  constructor(db: Db) {
    this.#db = db;
  }

  async position(party: string): Promise<Position | undefined> {
    const { rows } = await this.#db.query<Position>(
      "SELECT note, size, next FROM hub_ledger WHERE party = $1 AND note IS NOT NULL",
      [party],
    );
    return rows[0];
  }

  async storeHead(party: string, { note, size }: { note: Uint8Array; size: number }): Promise<void> {
    await this.#db.query(
      `INSERT INTO hub_ledger (party, note, size) VALUES ($1, $2, $3)
       ON CONFLICT (party) DO UPDATE SET note = excluded.note, size = excluded.size`,
      [party, note, size],
    );
  }

  take(
    party: string,
    next: number,
    { facts, alarms }: { readonly facts: readonly Fact[]; readonly alarms: readonly Alarm[] },
    reused: (fact: SlotFact, holder: SlotHolder) => Alarm,
  ): Promise<void> {
    return inTransaction(this.#db, async (tx) => {
      for (const fact of facts) {
        if (fact.kind === "ca") {
          const sql = "INSERT INTO hub_ledger_ca (party, ca) VALUES ($1, $2) ON CONFLICT DO NOTHING";
          await tx.query(sql, [party, fact.ca]);
        }
        if (fact.kind !== "keys") continue;
        await tx.query("UPDATE hub_ledger SET ca = $2, act = $3 WHERE party = $1", [party, fact.ca, fact.act]);
      }
      await takeCertificates(
        tx,
        party,
        facts.filter((fact) => fact.kind === "certificate"),
      );
      const slots = facts.filter((fact) => fact.kind === "slot");
      for (const alarm of [...(await takeSlots(tx, party, slots, reused)), ...alarms]) await raise(tx, alarm);
      await tx.query("UPDATE hub_ledger SET next = $2 WHERE party = $1", [party, next]);
    });
  }

  async keys(party: string): Promise<{ ca: Uint8Array; act: Uint8Array } | undefined> {
    const { rows } = await this.#db.query<{ ca: Uint8Array; act: Uint8Array }>(
      "SELECT ca, act FROM hub_ledger WHERE party = $1 AND ca IS NOT NULL",
      [party],
    );
    return rows[0];
  }

  async caKeys(): Promise<{ party: string; ca: Uint8Array }[]> {
    const sql = `SELECT party, ca FROM hub_ledger WHERE ca IS NOT NULL
      UNION SELECT party, ca FROM hub_ledger_ca ORDER BY party`;
    return (await this.#db.query<{ party: string; ca: Uint8Array }>(sql)).rows;
  }

  async certificate(sha256: string): Promise<{ party: string; index: number } | undefined> {
    const { rows } = await this.#db.query<{ party: string; index: number }>(
      "SELECT party, entry AS index FROM hub_logged WHERE sha256 = decode($1, 'hex')",
      [sha256],
    );
    return rows[0];
  }

  async witness(party: string, witness: string): Promise<WitnessMark | undefined> {
    const { rows } = await this.#db.query<{ size: number; time: number | null; behindSince: number | null }>(
      `SELECT size, time, behind_since AS "behindSince" FROM hub_witness WHERE party = $1 AND name = $2`,
      [party, witness],
    );
    const [row] = rows;
    return (
      row && {
        size: row.size,
        ...(row.time === null ? {} : { time: row.time }),
        ...(row.behindSince === null ? {} : { behindSince: row.behindSince }),
      }
    );
  }

  async storeWitness(party: string, witness: string, { size, time, behindSince }: WitnessMark): Promise<void> {
    await this.#db.query(
      `INSERT INTO hub_witness (party, name, size, time, behind_since) VALUES ($1, $2, $3, $4, $5)
       ON CONFLICT (party, name) DO UPDATE SET size = excluded.size, time = excluded.time,
         behind_since = excluded.behind_since`,
      [party, witness, size, time ?? null, behindSince ?? null],
    );
  }

  async raise(alarm: Alarm): Promise<void> {
    await inTransaction(this.#db, (tx) => raise(tx, alarm));
  }

  async settle({ code, party, subject }: Pick<Alarm, "code" | "party" | "subject">): Promise<void> {
    await this.#db.query("DELETE FROM hub_alarm WHERE code = $1 AND party = $2 AND subject = $3", [
      code,
      party,
      subject,
    ]);
  }

  async alarms(): Promise<(Alarm & { readonly since: Date; readonly fresh: boolean })[]> {
    const alarms = await listAlarms(this.#db);
    await this.#db.query("UPDATE hub_alarm SET told = true WHERE NOT told AND id = ANY($1)", [
      alarms.map(({ id }) => id),
    ]);
    return alarms;
  }
}

async function takeCertificates(
  tx: Tx,
  party: string,
  facts: readonly (Fact & { kind: "certificate" })[],
): Promise<void> {
  if (facts.length === 0) return;
  await tx.query(
    `INSERT INTO hub_logged (sha256, party, entry) SELECT decode(s, 'hex'), $1, i
     FROM unnest($2::text[], $3::bigint[]) AS f(s, i) ON CONFLICT DO NOTHING`,
    [party, texts(facts.map(({ sha256 }) => sha256)), ints(facts.map(({ index }) => index))],
  );
}

/** The slots that another entry has, by what `reused` makes of it. */
async function takeSlots(
  tx: Tx,
  party: string,
  facts: readonly SlotFact[],
  reused: (fact: SlotFact, holder: SlotHolder) => Alarm,
): Promise<Alarm[]> {
  if (facts.length === 0) return [];
  const values = [texts(facts.map(({ lot }) => lot)), ints(facts.map(({ slot }) => slot))];
  const { rowCount } = await tx.query(
    `INSERT INTO hub_slot (lot, slot, party, entry, sha256) SELECT l, s, $1, i, decode(c, 'hex')
     FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::text[]) AS f(l, s, i, c) ON CONFLICT DO NOTHING`,
    [party, ...values, ints(facts.map(({ index }) => index)), texts(facts.map(({ sha256 }) => sha256))],
  );
  // Each is its slot's first.
  if (rowCount === facts.length) return [];
  const { rows } = await tx.query<SlotHolder & { lot: string; slot: number }>(
    `SELECT lot, slot, party, entry AS index, encode(sha256, 'hex') AS sha256 FROM hub_slot
     WHERE (lot, slot) IN (SELECT l, s FROM unnest($1::text[], $2::bigint[]) AS f(l, s))`,
    values,
  );
  const holders = new Map(rows.map(({ lot, slot, ...holder }) => [`${lot}/${slot}`, holder]));
  return facts.flatMap((fact) => {
    const holder = holders.get(`${fact.lot}/${fact.slot}`);
    if (holder === undefined || (holder.party === party && holder.index === fact.index)) return [];
    return [reused(fact, holder)];
  });
}

async function raise(tx: Tx, { code, party, subject, message, index, evidence }: Alarm): Promise<void> {
  const values = (text: string): unknown[] => [text.slice(0, 2000), index ?? null];
  if (index !== undefined) {
    const { rows } = await tx.query<{ n: number; known: boolean | null }>(
      "SELECT count(*) AS n, bool_or(subject = $3) AS known FROM hub_alarm WHERE code = $1 AND party = $2",
      [code, party, subject],
    );
    const { n, known } = rows[0]!;
    if (known !== true && n >= MAX_ALARMS_A_CODE) {
      await tx.query(
        `INSERT INTO hub_alarm (code, party, subject, message, entry) VALUES ($1, $2, '', $3, $4) ON CONFLICT DO NOTHING`,
        [code, party, ...values(`and more of its entries from ${index} on: ${message}`)],
      );
      return;
    }
  }
  await tx.query(
    `INSERT INTO hub_alarm (code, party, subject, message, entry, evidence) VALUES ($1, $2, $3, $4, $5, $6)
     ON CONFLICT (code, party, subject) DO UPDATE SET message = excluded.message`,
    [code, party, subject, ...values(message), evidence === undefined ? null : JSON.stringify(evidence)],
  );
}

const MAX_LISTED = 10_000;

/** Open alarms, in the order in which they came. */
export async function listAlarms(
  q: Queryable,
  limit = MAX_LISTED,
): Promise<(Alarm & { readonly id: number; readonly since: Date; readonly fresh: boolean })[]> {
  const { rows } = await q.query<{
    id: number;
    code: AlarmCode;
    party: string;
    subject: string;
    message: string;
    entry: number | null;
    evidence: SplitView | null;
    since: Date;
    told: boolean;
  }>(
    `SELECT id, code, party, subject, message, entry, evidence, since, told FROM hub_alarm ORDER BY id LIMIT ${limit}`,
  );
  return rows.map(({ entry, evidence, told, ...alarm }) => ({
    ...alarm,
    ...(entry === null ? {} : { index: entry }),
    ...(evidence === null ? {} : { evidence }),
    fresh: !told,
  }));
}

export async function countAlarms(q: Queryable): Promise<number> {
  return (await q.query<{ n: number }>("SELECT count(*) AS n FROM hub_alarm")).rows[0]?.n ?? 0;
}

const MONITOR_LOCK = 0x6d6f6e69; // "moni"

/** Runs `round` if no other hub process on this database is in one. */
export async function asOnlyMonitor<T>(db: Db, round: () => Promise<T>): Promise<T | undefined> {
  const client = await db.connect();
  let mine = false;
  try {
    const { rows } = await client.query<{ mine: boolean }>("SELECT pg_try_advisory_lock($1) AS mine", [MONITOR_LOCK]);
    mine = rows[0]?.mine === true;
    return mine ? await round() : undefined;
  } finally {
    // A connection that broke took the lock with it; so does one that can't give it back.
    const freed = mine ? await client.query("SELECT pg_advisory_unlock($1)", [MONITOR_LOCK]).catch(() => undefined) : 0;
    client.release(freed === undefined);
  }
}

export interface FollowedLedger {
  readonly party: string;
  readonly size: number;
  readonly next: number;
  readonly ca: Uint8Array | null;
  readonly state: "followed" | "refused" | "behind" | "unreachable" | null;
  readonly error: string | null;
  readonly lookedAt: Date | null;
  readonly followedAt: Date | null;
}

export async function listLedgers(q: Queryable): Promise<FollowedLedger[]> {
  const sql = `SELECT party, size, next, ca, state, error, looked_at AS "lookedAt", followed_at AS "followedAt"
    FROM hub_ledger ORDER BY party`;
  return (await q.query<FollowedLedger>(sql)).rows;
}

/** @param began when the round began: what was logged before is in it */
export async function storeLook(
  q: Queryable,
  view: { party: string; state: NonNullable<FollowedLedger["state"]>; error?: string },
  began: Date,
): Promise<void> {
  await q.query(
    `INSERT INTO hub_ledger (party, state, error, looked_at, followed_at)
     VALUES ($1, $2, $3, $4, CASE WHEN $2 IN ('followed', 'refused') THEN $4::timestamptz END)
     ON CONFLICT (party) DO UPDATE SET state = excluded.state, error = excluded.error, looked_at = excluded.looked_at,
       followed_at = COALESCE(excluded.followed_at, hub_ledger.followed_at)`,
    [view.party, view.state, view.error?.slice(0, 500) ?? null, began],
  );
}

/** Ledgers that the configuration doesn't name any more. What they held stays known; what was wrong goes with them. */
export async function forgetLedgers(q: Queryable, parties: readonly string[]): Promise<void> {
  await q.query("DELETE FROM hub_ledger WHERE NOT party = ANY($1)", [parties]);
  await q.query("DELETE FROM hub_alarm WHERE party <> '-' AND NOT party = ANY($1)", [parties]);
}

/** Of these certificates (SHA-256, hex), those that a followed ledger holds. */
export async function loggedAmong(q: Queryable, digests: readonly string[]): Promise<Set<string>> {
  const { rows } = await q.query<{ sha256: string }>(
    `SELECT encode(sha256, 'hex') AS sha256 FROM hub_logged
     WHERE sha256 IN (SELECT decode(s, 'hex') FROM unnest($1::text[]) s)`,
    [digests],
  );
  return new Set(rows.map(({ sha256 }) => sha256));
}

const MAX_UNLOGGED = 10_000;

/** Notes certificates to be looked for. When too many wait, more are looked for when they come again. */
export async function noteUnlogged(
  q: Queryable,
  seen: readonly { sha256: string; certificate: Uint8Array; caName: string }[],
): Promise<void> {
  await q.query(
    `INSERT INTO hub_unlogged (sha256, certificate, ca_name)
     SELECT decode(s, 'hex'), c, n FROM unnest($1::text[], $2::bytea[], $3::text[]) AS f(s, c, n)
     WHERE (SELECT count(*) FROM hub_unlogged) < ${MAX_UNLOGGED} ON CONFLICT DO NOTHING`,
    [seen.map(({ sha256 }) => sha256), seen.map(({ certificate }) => certificate), seen.map(({ caName }) => caName)],
  );
}

/** Those that were first seen so long ago, the longest not looked for first. */
export async function unloggedSince(q: Queryable, graceMs: number, limit: number): Promise<Uint8Array[]> {
  const { rows } = await q.query<{ certificate: Uint8Array }>(
    `UPDATE hub_unlogged u SET looked_at = now() FROM (
       SELECT sha256 FROM hub_unlogged WHERE first_seen <= now() - make_interval(secs => $1)
       ORDER BY looked_at NULLS FIRST, first_seen LIMIT $2) o
     WHERE u.sha256 = o.sha256 RETURNING u.certificate`,
    [graceMs / 1000, limit],
  );
  return rows.map(({ certificate }) => certificate);
}

/** What a ledger holds by now needn't be looked for. */
export async function forgetLogged(q: Queryable): Promise<void> {
  await q.query("DELETE FROM hub_unlogged u USING hub_logged l WHERE l.sha256 = u.sha256");
}
