import type { Command } from "commander";
import { parseGroupQuery } from "../../../lib/records/group-query.ts";
import { devicesOfGroup } from "../evidence/group.ts";
import { ledgerSources } from "../evidence/sources.ts";
import { print, printJson, table } from "../output.ts";

/** `countersign group QUERY`: which devices the ledgers say belong together. */
export function registerGroup(program: Command): void {
  program
    .command("group")
    .description("the devices that a query over the ledgers describes (docs/groups.md)")
    .argument("<query>", "such as 'issuer = technician-z and installed > 2026-07-01'")
    .option("--from <dir>", "read the ledgers of an output folder instead of the running sites")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign group 'under factory-y and lot = L' --from out")
    .action(async (text: string, options: { from?: string; json?: boolean }) => {
      const query = parseGroupQuery(text);
      const devices = await devicesOfGroup(await ledgerSources(options.from), query);
      const day = (time: number | undefined): string => (time === undefined ? "-" : new Date(time).toISOString());
      if (options.json) {
        return printJson(
          devices.map(({ built, certified, injected, installed, expires, ...rest }) => ({
            ...rest,
            ...Object.fromEntries(
              Object.entries({ built, certified, injected, installed, expires }).flatMap(([name, time]) =>
                time === undefined ? [] : [[name, day(time)]],
              ),
            ),
          })),
        );
      }
      const rows = devices.map((one) => [one.device ?? "-", one.lot ?? "-", one.issuer ?? "-", day(one.installed)]);
      print(table([["DEVICE", "LOT", "ISSUER", "INSTALLED"], ...rows]));
    });
}
