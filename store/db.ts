import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import pg from "pg";
import { CountersignError } from "../lib/domain/errors.ts";

export type Db = pg.Pool;
export type Tx = pg.PoolClient;
/** Reads may run on either. */
export type Queryable = Db | Tx;

// int8 arrives as text by default; every bigint column here stays below 2^53.
pg.types.setTypeParser(pg.types.builtins.INT8, (text) => {
  const value = Number(text);
  if (!Number.isSafeInteger(value)) throw new RangeError(`bigint ${text} doesn't fit a number`);
  return value;
});

/** @param url `postgres://role@host:port/database`; the password may come by `password` so that URLs stay free of secrets */
export function connect(url: string, options: { password?: string; max?: number; name?: string } = {}): Db {
  // Set in the URL: a URL without a password would override one that is given beside it by an empty one.
  const target = new URL(url);
  if (options.password !== undefined) target.password = encodeURIComponent(options.password);
  const pool = new pg.Pool({
    connectionString: target.href,
    max: options.max ?? 10,
    application_name: options.name ?? "countersign",
    connectionTimeoutMillis: 15_000,
    // A plan that is kept was made for the tables as they were, in a new site's case empty: it goes on reading them from
    // end to end while a lot fills them, until the next ANALYZE. A plan a call costs a fraction of what a batch does.
    options: "-c plan_cache_mode=force_custom_plan",
  });
  // An idle connection that the server drops must not end the process; the next query reconnects.
  pool.on("error", () => undefined);
  // Nor must one that breaks in somebody's hands, between two queries: the holder's next query says so.
  pool.on("connect", (client) => void client.on("error", () => undefined));
  return pool;
}

/**
 * Within `work` the statements of this transaction are planned once a connection, not once a call: for those that insert
 * their parameters and read no table, so that no plan can grow old. Planned for each call, a parameter is copied a dozen
 * times as a constant of the plan, which for a batch's bytes costs as much as storing them.
 */
export async function withKeptPlans<T>(tx: Tx, work: () => Promise<T>): Promise<T> {
  await tx.query("SET LOCAL plan_cache_mode = force_generic_plan");
  const result = await work();
  await tx.query("SET LOCAL plan_cache_mode = force_custom_plan");
  return result;
}

/** What is to be done once the transaction that a connection is in has committed, each once. */
const afterCommit = new WeakMap<Tx, Set<() => void>>();

/**
 * Calls `work` after the transaction of `inTransaction` has committed, however often it is asked for; not at all when it
 * is rolled back, or the process ends. False, and nothing is kept, when `tx` is in no transaction of `inTransaction`.
 */
export function onceCommitted(tx: Tx, work: () => void): boolean {
  return afterCommit.get(tx)?.add(work) !== undefined;
}

/** Runs `work` in one READ COMMITTED transaction; commits when it resolves, rolls back when it throws. */
export async function inTransaction<T>(db: Db, work: (tx: Tx) => Promise<T>): Promise<T> {
  const client = await db.connect();
  let broken: Error | undefined;
  const due = new Set<() => void>();
  try {
    await client.query("BEGIN");
    afterCommit.set(client, due);
    const result = await work(client);
    await client.query("COMMIT");
    for (const next of due) next();
    return result;
  } catch (error) {
    await client.query("ROLLBACK").catch((cause: unknown) => {
      broken = cause instanceof Error ? cause : new Error(String(cause));
    });
    throw error;
  } finally {
    afterCommit.delete(client);
    client.release(broken);
  }
}

const MIGRATION_LOCK = 0x636f7369; // "cosi"

/**
 * Applies the *.sql files of `folder` that this database hasn't seen, in name order, each in its own transaction.
 * Several processes may call it at once.
 */
export async function migrate(db: Db, folder = join(import.meta.dirname, "migrations")): Promise<void> {
  const files = (await readdir(folder)).filter((name) => name.endsWith(".sql")).sort();
  const client = await db.connect();
  try {
    await client.query("SELECT pg_advisory_lock($1)", [MIGRATION_LOCK]);
    await client.query(
      "CREATE TABLE IF NOT EXISTS migration (name text PRIMARY KEY, applied timestamptz NOT NULL DEFAULT now())",
    );
    const done = new Set(
      (await client.query<{ name: string }>("SELECT name FROM migration")).rows.map((row) => row.name),
    );
    for (const name of files) {
      if (done.has(name)) continue;
      await client.query("BEGIN");
      try {
        await client.query(await readFile(join(folder, name), "utf8"));
        await client.query("INSERT INTO migration (name) VALUES ($1)", [name]);
        await client.query("COMMIT");
      } catch (cause) {
        await client.query("ROLLBACK");
        throw new CountersignError("internal", `migration ${name} failed: ${String(cause)}`, { cause });
      }
    }
  } finally {
    await client.query("SELECT pg_advisory_unlock($1)", [MIGRATION_LOCK]).catch(() => undefined);
    client.release();
  }
}
