import { writeFile } from "node:fs/promises";
import { type Command, Option } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import type { Openings } from "../../../lib/records/opening.ts";
import { withSite } from "../lot-view.ts";
import { note, print, printJson } from "../output.ts";

interface ErasureAnswer {
  readonly deviceId: string;
  readonly erased: readonly string[];
  readonly erasures: readonly { commitment: string; domain: string; erased: string; by: string }[];
  readonly left: readonly string[];
}

/** Personal values that the ledger has only commitments to: shown to an auditor, or erased. */
export function registerOpenings(program: Command): void {
  program
    .command("openings")
    .description("the values behind a device's commitments, for an auditor: verify and trace take them as --opening")
    .argument("<device>", "device ID")
    .option("--out <file>", "write them there, readable by its owner only, instead of printing them")
    .option("--site <id>", "the site that installed it", "technician-z")
    .option("--json", "machine-readable; what is printed anyway")
    .addHelpText("after", "\nExample:\n  $ countersign openings dev-1-0001 --out dev-1-0001.openings.json")
    .action((device: string, options: { out?: string; site: string }) =>
      withSite(options.site, async (client) => {
        const shown = await client.get<Openings>(`/api/v1/devices/${encodeURIComponent(device)}/openings`);
        if (shown.openings.length === 0) {
          throw new CountersignError(
            "not-found",
            `${options.site} holds no values of ${device}: it wasn't installed there, or they were erased`,
          );
        }
        if (options.out === undefined) return printJson(shown);
        await writeFile(options.out, `${JSON.stringify(shown, null, 2)}\n`, { mode: 0o600 });
        note(`${shown.openings.map(({ domain }) => domain).join(", ")} of ${device} are in ${options.out}`);
      }),
    );

  program
    .command("erase")
    .description("erase the values behind a device's commitments; the records, and every proof over them, stand")
    .argument("<device>", "device ID")
    .addOption(new Option("--field <field...>", "only these").choices(["place", "time"]))
    .option("--site <id>", "the site that installed it", "technician-z")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign erase dev-1-0001 --field place")
    .action((device: string, options: { field?: string[]; site: string; json?: boolean }) =>
      withSite(options.site, async (client) => {
        const path = `/api/v1/devices/${encodeURIComponent(device)}/erasures`;
        const answer = await client.post<ErasureAnswer>(
          path,
          options.field === undefined ? {} : { fields: options.field },
        );
        if (options.json) printJson(answer);
        else report(answer, options.site);
      }),
    );
}

function report({ deviceId, erased, erasures, left }: ErasureAnswer, site: string): void {
  if (erasures.length === 0) print(`${site} holds no values of ${deviceId}: nothing to erase`);
  for (const { domain, erased: at, by, commitment } of erasures) {
    const now = erased.includes(domain);
    print(`${domain} of ${deviceId}: ${now ? "erased" : "was erased before"}, ${at} by ${by} (${commitment})`);
  }
  if (left.length > 0) note(`still held: ${left.join(", ")}`);
  if (erased.length > 0) {
    note("the ledger keeps the commitments, and every proof stands; backups and copies handed out are not reached");
  }
}
