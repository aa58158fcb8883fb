import {
  copyFile,
  lchown,
  mkdir,
  open,
  readdir,
  readFile,
  realpath,
  rename,
  rm,
  stat,
  writeFile,
} from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { duringBackup } from "../../../store/backup.ts";
import { postgresAccount } from "./postgres-account.ts";

/**
 * A physical copy of the embedded cluster, taken while it runs, with the write-ahead log that makes it whole. It holds
 * every party's database and the hub's; tokens, configuration and images aren't in it.
 */
const manifest = z.strictObject({
  schema: z.literal("countersign/backup/v1"),
  taken: z.string(),
  postgres: z.string(),
});
export type BackupManifest = z.infer<typeof manifest>;

const MANIFEST = "backup.json";

/** What a server makes anew when it starts (PostgreSQL, "Backing Up The Data Directory"): the folders stay, empty. */
const EMPTIED = new Set(
  "pg_wal pg_replslot pg_dynshmem pg_notify pg_serial pg_snapshots pg_stat_tmp pg_subtrans".split(" "),
);
const LEFT_OUT = /^(postmaster\.(pid|opts)|pg_internal\.init.*|pgsql_tmp.*)$/;

/**
 * @param to a folder that doesn't exist yet, or is empty
 * @throws CountersignError `already-exists`, `component-unreachable`, `state-conflict`
 */
export async function backUp(options: {
  readonly adminUrl: string;
  readonly dataDir: string;
  readonly to: string;
}): Promise<BackupManifest> {
  const { adminUrl, to } = options;
  const from = await realpath(options.dataDir);
  await mkdir(to, { recursive: true, mode: 0o700 });
  if ((await readdir(to)).length > 0) {
    throw new CountersignError("already-exists", `${to} isn't empty: a backup goes into a folder of its own`);
  }
  const data = join(to, "postgres");
  await duringBackup(
    adminUrl,
    async () => {
      await copyFolder(from, data, true);
      // Last, so that nothing in the copy is older than what it says.
      await copyDurably(join(from, "global", "pg_control"), join(data, "global", "pg_control"));
    },
    async ({ label, wal }) => {
      await mkdir(join(data, "pg_wal", "archive_status"), { recursive: true });
      for (const name of wal) await copyDurably(join(from, "pg_wal", name), join(data, "pg_wal", name));
      await writeFile(join(data, "backup_label"), label, { flush: true });
    },
  );
  const said: BackupManifest = {
    schema: "countersign/backup/v1",
    taken: new Date().toISOString(),
    postgres: (await readFile(join(from, "PG_VERSION"), "utf8")).trim(),
  };
  // Its presence says that the backup is whole.
  await writeFile(join(to, MANIFEST), `${JSON.stringify(said, null, 2)}\n`, { flush: true });
  return said;
}

/**
 * Puts a backup in the cluster's place; what was there is kept beside it. The server has to be down.
 * @returns where the former cluster is now
 * @throws CountersignError `input-invalid` when it is no whole backup, `state-conflict` when a server runs on the folder
 */
export async function restoreBackup(options: { readonly from: string; readonly dataDir: string }): Promise<string> {
  await readManifest(options.from);
  const dataDir = await realpath(options.dataDir).catch(() => options.dataDir);
  if ((await stat(join(dataDir, "postmaster.pid")).catch(() => undefined)) !== undefined) {
    throw new CountersignError(
      "state-conflict",
      `Postgres runs on ${dataDir}: stop the stack first (countersign down)`,
    );
  }
  const former = `${dataDir}.before-${new Date().toISOString().replaceAll(/[:.]/g, "-")}`;
  const fresh = `${dataDir}.restoring`;
  await rm(fresh, { recursive: true, force: true });
  await copyFolder(join(options.from, "postgres"), fresh, false);
  await giveTo(fresh, postgresAccount());
  await rename(dataDir, former).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT") throw error;
  });
  await rename(fresh, dataDir);
  return former;
}

async function readManifest(folder: string): Promise<BackupManifest> {
  try {
    return manifest.parse(JSON.parse(await readFile(join(folder, MANIFEST), "utf8")));
  } catch (cause) {
    throw new CountersignError(
      "input-invalid",
      `${folder} holds no whole backup (${MANIFEST} is missing or unreadable)`,
      {
        cause,
      },
    );
  }
}

async function copyFolder(from: string, to: string, live: boolean, top = true): Promise<void> {
  await mkdir(to, { recursive: true, mode: 0o700 });
  for (const entry of await readdir(from, { withFileTypes: true })) {
    if (live && LEFT_OUT.test(entry.name)) continue;
    const [source, target] = [join(from, entry.name), join(to, entry.name)];
    if (entry.isDirectory()) {
      if (live && top && EMPTIED.has(entry.name)) await mkdir(target, { mode: 0o700 });
      else await copyFolder(source, target, live, false);
    } else if (entry.isFile()) {
      await copyDurably(source, target).catch((error: NodeJS.ErrnoException) => {
        // Dropped meanwhile: the log that is copied too says so.
        if (!live || error.code !== "ENOENT") throw error;
      });
    }
  }
}

/** On the disk when it resolves. */
async function copyDurably(from: string, to: string): Promise<void> {
  await copyFile(from, to);
  const file = await open(to, "r+");
  try {
    await file.datasync();
  } finally {
    await file.close();
  }
}

async function giveTo(path: string, account: { uid: number; gid: number } | undefined): Promise<void> {
  if (account === undefined) return;
  for (const entry of await readdir(path, { withFileTypes: true, recursive: true })) {
    await lchown(join(entry.parentPath, entry.name), account.uid, account.gid);
  }
  await lchown(path, account.uid, account.gid);
}
