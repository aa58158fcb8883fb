import { InvalidArgumentError, type Command } from "commander";
import { print, printJson, table } from "../output.ts";
import { SiteClient } from "../site-client.ts";

interface Item {
  what: string;
  subject: string;
  notAfter: string;
  alert: number | null;
}

const DAY_MS = 86_400_000;

/** `countersign expiring`: what signing rests on, and when it ends. */
export function registerExpiring(program: Command): void {
  program
    .command("expiring")
    .option("--within <days>", "what ends within so many days, as 30d", days, 30 * DAY_MS)
    .option("--site <id>", "whose", "factory-y")
    .description("CA certificates, grants and CRLs that end soon: the site's own, its issuers', its children's")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign expiring --within 90d --site factory-y")
    .action(async ({ within, site, json }: { within: number; site: string; json?: boolean }) => {
      const client = await SiteClient.open(site);
      try {
        const until = Date.now() + within;
        const { items } = await client.get<{ items: Item[] }>("/api/v1/expiring");
        const soon = items.filter(({ notAfter }) => Date.parse(notAfter) <= until);
        if (json) return printJson(soon);
        if (soon.length === 0) return print("nothing");
        print(
          table([["WHAT", "WHOSE", "ENDS"], ...soon.map(({ what, subject, notAfter }) => [what, subject, notAfter])]),
        );
      } finally {
        client.close();
      }
    });
}

function days(text: string): number {
  const [, number] = /^(\d{1,6})d?$/.exec(text) ?? [];
  if (number === undefined) throw new InvalidArgumentError("expected a number of days, such as 30d");
  return Number(number) * DAY_MS;
}
