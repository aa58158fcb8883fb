import { randomBytes } from "node:crypto";
import pg from "pg";
import { CountersignError } from "../lib/domain/errors.ts";

/** What has to lie in the copy beside the cluster's files. */
export interface BackupEnd {
  /** `backup_label`: without it a server that starts on the copy would take it for a crashed one, and lose data */
  readonly label: string;
  /** names of the WAL segments that the copy needs, in `pg_wal` until this is over */
  readonly wal: readonly string[];
}

/**
 * Holds a cluster in backup mode while its files are copied (PostgreSQL, "Making a Base Backup Using the Low Level API").
 * A replication slot keeps the write-ahead log of that time from being recycled; it goes with this connection.
 * @throws CountersignError `component-unreachable`, `state-conflict` when tables lie outside the cluster's folder
 */
export async function duringBackup(
  adminUrl: string,
  copyFiles: () => Promise<void>,
  finish: (end: BackupEnd) => Promise<void>,
): Promise<void> {
  const client = new pg.Client({ connectionString: adminUrl, application_name: "countersign backup" });
  client.on("error", () => {});
  try {
    await client.connect();
  } catch (cause) {
    throw new CountersignError("component-unreachable", "Postgres doesn't answer: is the stack running?", { cause });
  }
  try {
    const slot = `countersign_${randomBytes(6).toString("hex")}`;
    await client.query("SELECT pg_create_physical_replication_slot($1, true, true)", [slot]);
    const begin = await one<{ wal: string }>(
      client,
      "SELECT pg_walfile_name(pg_backup_start('countersign', true)) AS wal",
    );
    await copyFiles();
    const end = await one<{ lsn: string; label: string; spaces: string }>(
      client,
      "SELECT lsn::text, labelfile AS label, spcmapfile AS spaces FROM pg_backup_stop(false)",
    );
    if (end.spaces.trim() !== "") {
      throw new CountersignError(
        "state-conflict",
        "this cluster has tablespaces of its own: back it up with pg_basebackup",
      );
    }
    const { rows } = await client.query<{ name: string }>(
      `SELECT name FROM pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$' AND name BETWEEN $1 AND pg_walfile_name($2) ORDER BY name`,
      [begin.wal, end.lsn],
    );
    await finish({ label: end.label, wal: rows.map((row) => row.name) });
  } finally {
    await client.end();
  }
}

async function one<T extends pg.QueryResultRow>(client: pg.Client, text: string): Promise<T> {
  return (await client.query<T>(text)).rows[0]!;
}
