import { readFile } from "node:fs/promises";
import type { Command } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { note, print, printJson } from "../output.ts";
import { withSite } from "../lot-view.ts";

interface Reconciliation {
  readonly intents: {
    readonly signed: readonly string[];
    readonly abandoned: readonly { device: string; reason: string }[];
    readonly open: readonly { device: string; reason: string }[];
  };
  readonly alarms: readonly string[];
}
interface SeenAnswer {
  readonly results: readonly { sha256: string; state: "known" | "unknown" | "foreign" }[];
}

/** `countersign reconcile`: a site's open intents, and certificates held against its ledger. */
export function registerReconcile(program: Command): void {
  program
    .command("reconcile")
    .description("settle intents that were left without a certificate, and look for certificates no ledger holds")
    .option("--seen <pem>", "hold these certificates, seen elsewhere, against the site's ledger instead")
    .option("--site <id>", "the issuer's site", "technician-z")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign reconcile --site technician-z --seen found.pem")
    .action((options: { seen?: string; site: string; json?: boolean }) =>
      withSite(options.site, async (client) => {
        if (options.seen !== undefined) {
          const certificates = await readSeen(options.seen);
          const answer = await client.post<SeenAnswer>("/api/v1/seen", { certificates });
          if (options.json) printJson(answer);
          else for (const { sha256, state } of answer.results) print(`${sha256} ${state}`);
          assertNone(answer.results.filter(({ state }) => state === "unknown").length);
          return;
        }
        const done = await client.post<Reconciliation>("/api/v1/reconciliations", {}, { timeoutMs: 600_000 });
        if (options.json) printJson(done);
        else {
          for (const { device, reason } of done.intents.abandoned) print(`${device} given up: ${reason}`);
          for (const { device, reason } of done.intents.open) print(`${device} still open: ${reason}`);
          note(`${done.intents.signed.length} signed, ${done.intents.abandoned.length} given up`);
        }
        assertNone(done.alarms.length);
      }),
    );
}

function assertNone(unlogged: number): void {
  if (unlogged === 0) return;
  throw new CountersignError(
    "audit-failed",
    `${unlogged} certificates that the site's CA key signed are in no ledger: its alarm acts show them; find out who used the key`,
  );
}

async function readSeen(path: string): Promise<string> {
  try {
    return await readFile(path, "utf8");
  } catch (cause) {
    throw new CountersignError("usage", `--seen ${path} can't be read: ${(cause as Error).message}`, { cause });
  }
}
