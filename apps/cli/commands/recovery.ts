import { existsSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";
import type { Command } from "commander";
import { z } from "zod";
import { CountersignError, isCountersignError } from "../../../lib/domain/errors.ts";
import { isAlive, readStackFile } from "../../site/stack/stack-file.ts";
import { oneShot } from "../one-shot.ts";
import { note, print, printJson } from "../output.ts";
import { stateFolder } from "../site-client.ts";

// Postgres's own modules are loaded by the commands that run it.

const rebuilt = z.strictObject({
  restored: z.int(),
  size: z.int(),
  left: z.array(z.strictObject({ index: z.int(), type: z.string(), subject: z.string() })),
  recovered: z.string(),
});
const REBUILD = join(import.meta.dirname, "../../site/rebuild.ts");

/** `countersign backup`, `restore` and `ledger rebuild`: the embedded stack's database, lost and found. */
export function registerRecovery(program: Command): void {
  program
    .command("backup")
    .description("copy the running stack's database, with the log that makes the copy whole")
    .requiredOption("--to <dir>", "an empty folder, or one that doesn't exist yet")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign backup --to backup-1")
    .action(async ({ to, json }: { to: string; json?: boolean }) => {
      const home = stateFolder();
      const { postgres } = await readStackFile(home);
      if (postgres.pid === null) throw foreignServer("pg_basebackup");
      const { backUp } = await import("../../site/stack/backup.ts");
      const password = encodeURIComponent(readFileSync(passwordFile(home), "utf8").trim());
      const adminUrl = `postgres://postgres:${password}@127.0.0.1:${postgres.port}/postgres`;
      const said = await backUp({ adminUrl, dataDir: join(home, "postgres"), to: resolve(to) });
      if (json) printJson({ ...said, to: resolve(to) });
      else note(`the database of ${said.taken} is in ${to}`);
    });

  program
    .command("restore")
    .description("put a backup of the database in its place; the stack must be down")
    .requiredOption("--from <dir>", "what `countersign backup` wrote")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign restore --from backup-1")
    .action(async ({ from, json }: { from: string; json?: boolean }) => {
      const home = stateFolder();
      await assertDown(home);
      const { restoreBackup } = await import("../../site/stack/backup.ts");
      const former = await restoreBackup({ from: resolve(from), dataDir: join(home, "postgres") });
      if (json) printJson({ restored: resolve(from), former });
      else note(`restored; the database that was there is in ${former}`);
    });

  const ledger = program.command("ledger").description("a site's ledger and the tables that follow from it");
  ledger
    .command("rebuild")
    .description("bring a restored database up to the ledger as it was published; the stack must be down")
    .requiredOption("--site <id>", "whose database")
    .option("--from <source>", "folder or http(s) URL of the ledger; the site's own copy unless given")
    .option("--json", "machine-readable")
    .addHelpText(
      "after",
      "\nExample:\n  $ countersign ledger rebuild --site technician-z --from out/ledger/technician-z",
    )
    .action(async ({ site, from, json }: { site: string; from?: string; json?: boolean }) => {
      const home = stateFolder();
      await assertDown(home);
      const answer = await rebuildSite(home, site, from);
      if (json) return printJson(answer);
      for (const { index, type, subject } of answer.left) {
        print(`act ${index}, ${type} of ${subject}: what followed from it isn't in the ledger; see to it`);
      }
      note(`${site}: ${answer.size - answer.restored} acts are back; the ledger goes on from ${answer.size}`);
    });
}

async function rebuildSite(home: string, site: string, from: string | undefined): Promise<z.output<typeof rebuilt>> {
  const config = join(home, site, "site.json");
  if (!existsSync(config)) throw new CountersignError("component-missing", `there is no site ${site} in ${home}`);
  const source = from === undefined ? join(home, site, "ledger") : /^https?:\/\//.test(from) ? from : resolve(from);
  if (!source.startsWith("http") && !existsSync(join(source, "checkpoint"))) {
    throw new CountersignError("usage", `${source} holds no ledger (no checkpoint): say where it is with --from`);
  }
  const { database } = z
    .object({ database: z.object({ url: z.string() }) })
    .parse(JSON.parse(readFileSync(config, "utf8")));
  const { openPostgres } = await import("../../site/stack/postgres.ts");
  const postgres = await openPostgres({
    dataDir: join(home, "postgres"),
    adminPasswordFile: passwordFile(home),
    logFile: join(home, "log", "postgres.log"),
    port: Number(new URL(database.url).port),
  });
  try {
    return await oneShot("the rebuild", REBUILD, ["--config", config, "--from", source], rebuilt);
  } finally {
    await postgres.stop();
  }
}

const passwordFile = (home: string): string => join(home, "secrets", "postgres.password");

async function assertDown(home: string): Promise<void> {
  try {
    const { pid } = await readStackFile(home);
    if (!isAlive(pid)) return;
  } catch (error) {
    if (isCountersignError(error) && error.code === "component-unreachable") return;
    throw error;
  }
  throw new CountersignError(
    "state-conflict",
    `the stack of ${home} is running: stop it first with \`countersign down\``,
  );
}

function foreignServer(tool: string): CountersignError {
  return new CountersignError(
    "state-conflict",
    `this stack's Postgres is run by others (DATABASE_URL): use ${tool} there`,
  );
}
