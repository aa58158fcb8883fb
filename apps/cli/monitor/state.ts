import { DatabaseSync, type SQLInputValue, type StatementSync } from "node:sqlite";
import { CountersignError } from "../../../lib/domain/errors.ts";
import type {
  Alarm,
  AlarmCode,
  Fact,
  MonitorStore,
  Position,
  SlotFact,
  SlotHolder,
  WitnessMark,
} from "../../../lib/ledger/monitor/store.ts";
import type { SplitView } from "../../../lib/records/split-view.ts";

const SCHEMA = `
CREATE TABLE IF NOT EXISTS ledger (party TEXT PRIMARY KEY, note BLOB, size INTEGER NOT NULL, next INTEGER NOT NULL,
  ca BLOB, act BLOB) STRICT;
CREATE TABLE IF NOT EXISTS other_ca (party TEXT NOT NULL, ca BLOB NOT NULL, PRIMARY KEY (party, ca)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS certificate (sha256 BLOB PRIMARY KEY, party TEXT NOT NULL, entry INTEGER NOT NULL)
  STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS slot (lot TEXT NOT NULL, slot INTEGER NOT NULL, party TEXT NOT NULL, entry INTEGER NOT NULL,
  sha256 BLOB NOT NULL, PRIMARY KEY (lot, slot)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS witness (party TEXT NOT NULL, name TEXT NOT NULL, size INTEGER NOT NULL, time INTEGER,
  behind_since INTEGER, PRIMARY KEY (party, name)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS alarm (id INTEGER PRIMARY KEY, code TEXT NOT NULL, party TEXT NOT NULL, subject TEXT NOT NULL,
  message TEXT NOT NULL, entry INTEGER, evidence TEXT, since INTEGER NOT NULL, told INTEGER NOT NULL DEFAULT 0,
  UNIQUE (code, party, subject)) STRICT;
`;
/** Of the file's form: another one is another program's, or an older one's. */
const VERSION = 1;
const APPLICATION = 0x636f756e; // "coun"
/** A ledger's entries at fault that are told one by one: one that is wrong throughout must not fill the disk. */
const MAX_ALARMS_A_CODE = 256;

/**
 * A monitor's memory in one SQLite file: what was taken in and how far is one transaction, so that a monitor that is
 * killed goes on where it was. One monitor has the file at a time.
 */
export class MonitorFile implements MonitorStore {
  readonly #db: DatabaseSync;
  readonly #statements = new Map<string, StatementSync>();

  /** @throws CountersignError `state-conflict` (another monitor has it), `input-invalid` (it is something else) */
  constructor(file: string) {
    try {
      this.#db = new DatabaseSync(file);
    } catch (cause) {
      throw new CountersignError("input-invalid", `the state ${file} can't be opened: ${String(cause)}`, { cause });
    }
    try {
      this.#db.exec("PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;");
      this.#db.exec("BEGIN EXCLUSIVE; COMMIT");
      const application = this.#db.prepare("PRAGMA application_id").get()?.["application_id"];
      const version = this.#db.prepare("PRAGMA user_version").get()?.["user_version"];
      const empty = this.#db.prepare("SELECT count(*) AS n FROM sqlite_schema").get()?.["n"] === 0;
      if (!empty && (application !== APPLICATION || version !== VERSION)) {
        throw new CountersignError("input-invalid", `${file} is no monitor's state, or one of another version`);
      }
      this.#db.exec(
        `BEGIN; PRAGMA application_id = ${APPLICATION}; PRAGMA user_version = ${VERSION}; ${SCHEMA} COMMIT`,
      );
    } catch (cause) {
      this.#db.close();
      if (cause instanceof CountersignError) throw cause;
      const busy = /locked|busy/.test(String(cause));
      const [code, why] = busy
        ? (["state-conflict", "another monitor has it"] as const)
        : (["input-invalid", "it is no monitor's state"] as const);
      throw new CountersignError(code, `the state ${file} can't be used: ${why}`, { cause });
    }
  }

  close(): void {
    this.#db.close();
  }

  async position(party: string): Promise<Position | undefined> {
    const row = this.#get("SELECT note, size, next FROM ledger WHERE party = ? AND note IS NOT NULL", party);
    return row && { note: row["note"] as Uint8Array, size: row["size"] as number, next: row["next"] as number };
  }

  async storeHead(party: string, { note, size }: { note: Uint8Array; size: number }): Promise<void> {
    this.#run(
      `INSERT INTO ledger (party, note, size, next) VALUES (?, ?, ?, 0)
       ON CONFLICT (party) DO UPDATE SET note = excluded.note, size = excluded.size`,
      ...[party, note, size],
    );
  }

  async take(
    party: string,
    next: number,
    { facts, alarms }: { readonly facts: readonly Fact[]; readonly alarms: readonly Alarm[] },
    reused: (fact: SlotFact, holder: SlotHolder) => Alarm,
  ): Promise<void> {
    this.#db.exec("BEGIN IMMEDIATE");
    try {
      for (const fact of facts) this.#takeFact(party, fact, reused);
      for (const alarm of alarms) this.#raise(alarm);
      this.#run("UPDATE ledger SET next = ? WHERE party = ?", next, party);
      this.#db.exec("COMMIT");
    } catch (error) {
      this.#db.exec("ROLLBACK");
      throw error;
    }
  }

  #takeFact(party: string, fact: Fact, reused: (fact: SlotFact, holder: SlotHolder) => Alarm): void {
    switch (fact.kind) {
      case "keys":
        return void this.#run("UPDATE ledger SET ca = ?, act = ? WHERE party = ?", fact.ca, fact.act, party);
      case "ca":
        return void this.#run("INSERT INTO other_ca (party, ca) VALUES (?, ?) ON CONFLICT DO NOTHING", party, fact.ca);
      case "certificate":
        return void this.#run(
          "INSERT INTO certificate (sha256, party, entry) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
          ...[Buffer.from(fact.sha256, "hex"), party, fact.index],
        );
      case "slot": {
        const { lot, slot, sha256, index } = fact;
        const changes = this.#run(
          "INSERT INTO slot (lot, slot, party, entry, sha256) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
          ...[lot, slot, party, index, Buffer.from(sha256, "hex")],
        );
        if (changes === 1) return;
        const held = this.#get("SELECT party, entry, sha256 FROM slot WHERE lot = ? AND slot = ?", lot, slot)!;
        if (held["party"] === party && held["entry"] === index) return;
        const holder = { party: held["party"] as string, index: held["entry"] as number, sha256: hex(held["sha256"]) };
        this.#raise(reused(fact, holder));
      }
    }
  }

  async keys(party: string): Promise<{ ca: Uint8Array; act: Uint8Array } | undefined> {
    const row = this.#get("SELECT ca, act FROM ledger WHERE party = ? AND ca IS NOT NULL", party);
    return row && { ca: row["ca"] as Uint8Array, act: row["act"] as Uint8Array };
  }

  async caKeys(): Promise<{ party: string; ca: Uint8Array }[]> {
    const rows = this.#statement(
      "SELECT party, ca FROM ledger WHERE ca IS NOT NULL UNION SELECT party, ca FROM other_ca ORDER BY party",
    ).all();
    return rows.map((row) => ({ party: row["party"] as string, ca: row["ca"] as Uint8Array }));
  }

  async certificate(sha256: string): Promise<{ party: string; index: number } | undefined> {
    const row = this.#get("SELECT party, entry FROM certificate WHERE sha256 = ?", Buffer.from(sha256, "hex"));
    return row && { party: row["party"] as string, index: row["entry"] as number };
  }

  async witness(party: string, witness: string): Promise<WitnessMark | undefined> {
    const sql = "SELECT size, time, behind_since FROM witness WHERE party = ? AND name = ?";
    const row = this.#get(sql, party, witness);
    if (row === undefined) return undefined;
    const [time, behindSince] = [row["time"] as number | null, row["behind_since"] as number | null];
    return {
      size: row["size"] as number,
      ...(time === null ? {} : { time }),
      ...(behindSince === null ? {} : { behindSince }),
    };
  }

  async storeWitness(party: string, witness: string, { size, time, behindSince }: WitnessMark): Promise<void> {
    this.#run(
      `INSERT INTO witness (party, name, size, time, behind_since) VALUES (?, ?, ?, ?, ?) ON CONFLICT (party, name)
       DO UPDATE SET size = excluded.size, time = excluded.time, behind_since = excluded.behind_since`,
      ...[party, witness, size, time ?? null, behindSince ?? null],
    );
  }

  async raise(alarm: Alarm): Promise<void> {
    this.#raise(alarm);
  }

  #raise(alarm: Alarm): void {
    if (alarm.index !== undefined && this.#isFull(alarm)) {
      const message = `and more of its entries from ${alarm.index} on: ${alarm.message}`;
      this.#run(
        `INSERT INTO alarm (code, party, subject, message, entry, since) VALUES (?, ?, '', ?, ?, ?) ON CONFLICT DO NOTHING`,
        ...[alarm.code, alarm.party, message, alarm.index, Date.now()],
      );
    } else this.#insert(alarm);
  }

  #isFull({ code, party, subject }: Alarm): boolean {
    const open = "SELECT count(*) AS n, max(subject = ?) AS known FROM alarm WHERE code = ? AND party = ?";
    const { n, known } = this.#get(open, subject, code, party)!;
    return known !== 1 && (n as number) >= MAX_ALARMS_A_CODE;
  }

  #insert({ code, party, subject, message, index, evidence }: Alarm): void {
    this.#run(
      `INSERT INTO alarm (code, party, subject, message, entry, evidence, since) VALUES (?, ?, ?, ?, ?, ?, ?)
       ON CONFLICT (code, party, subject) DO UPDATE SET message = excluded.message`,
      ...[code, party, subject, message, index ?? null],
      ...[evidence === undefined ? null : JSON.stringify(evidence), Date.now()],
    );
  }

  async settle({ code, party, subject }: Pick<Alarm, "code" | "party" | "subject">): Promise<void> {
    this.#run("DELETE FROM alarm WHERE code = ? AND party = ? AND subject = ?", code, party, subject);
  }

  async alarms(): Promise<(Alarm & { readonly since: Date; readonly fresh: boolean })[]> {
    const rows = this.#statement("SELECT * FROM alarm ORDER BY id").all();
    this.#run("UPDATE alarm SET told = 1 WHERE told = 0");
    return rows.map((row) => ({
      code: row["code"] as AlarmCode,
      party: row["party"] as string,
      subject: row["subject"] as string,
      message: row["message"] as string,
      ...(row["entry"] === null ? {} : { index: row["entry"] as number }),
      ...(row["evidence"] === null ? {} : { evidence: JSON.parse(row["evidence"] as string) as SplitView }),
      since: new Date(row["since"] as number),
      fresh: row["told"] === 0,
    }));
  }

  #statement(sql: string): StatementSync {
    let statement = this.#statements.get(sql);
    if (statement === undefined) this.#statements.set(sql, (statement = this.#db.prepare(sql)));
    return statement;
  }
  #get(sql: string, ...values: SQLInputValue[]) {
    return this.#statement(sql).get(...values);
  }
  #run(sql: string, ...values: SQLInputValue[]): number {
    return Number(this.#statement(sql).run(...values).changes);
  }
}

const hex = (bytes: unknown): string => Buffer.from(bytes as Uint8Array).toString("hex");
