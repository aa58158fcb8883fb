import type { Command } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { note, print, printJson } from "../output.ts";
import { SiteClient } from "../site-client.ts";

/** `countersign rotate`: another key for a party's CA. */

interface Rotations {
  keys: { keyId: string; label: string; present: boolean; notAfter: string }[];
  next: { parent: string; label: string } | null;
  rotations: {
    supersedes: string;
    state: "requested" | "sent" | "accepted" | "refused";
    effectiveSize: number | null;
    csrSha256: string | null;
    error?: { code: string; message: string };
  }[];
}

const WAIT_MS = 120_000;

export function registerRotate(program: Command): void {
  program
    .command("rotate")
    .argument("<party>", "whose CA; it is asked for at the party's own site")
    .option("--site <id>", "the party's site; the party itself unless given")
    .option("--no-wait", "only ask: a parent whose CA is offline answers in a sitting with its token")
    .option("--dry-run", "say what would be done, and do nothing")
    .option("--json", "machine-readable")
    .description(
      "give a party's CA another key: the parent signs a certificate for it, hubs follow, and the old key signs CRLs only",
    )
    .addHelpText(
      "after",
      "\nExample:\n  $ countersign rotate technician-z\n  $ countersign rotate technician-z --dry-run\n  $ countersign rotate factory-y --no-wait",
    )
    .action(async (party: string, options: { site?: string; wait: boolean; dryRun?: boolean; json?: boolean }) => {
      if (options.site !== undefined && options.site !== party) {
        throw new CountersignError("usage", `the CA of ${party} is rotated at its own site, not at ${options.site}`);
      }
      const client = await SiteClient.open(party);
      try {
        if (options.dryRun === true) return showPlan(await client.get<Rotations>("/api/v1/rotations"), options.json);
        const { supersedes } = await client.post<{ supersedes: string }>("/api/v1/rotations", {});
        note("asking the parent for a certificate for the new key");
        const of = ({ rotations }: Rotations) => rotations.find((one) => one.supersedes === supersedes);
        const done = await client.poll<Rotations>(
          "/api/v1/rotations",
          (answer) => ["accepted", "refused", ...(options.wait ? [] : ["sent"])].includes(of(answer)?.state ?? ""),
          { timeoutMs: WAIT_MS, what: `the new CA key of ${party}` },
        );
        const rotation = of(done);
        if (!options.wait && rotation?.state === "sent") {
          if (options.json) return printJson(rotation);
          print(
            `asked; where the parent's CA is offline: countersign ceremony renew ${party} --request ${rotation.csrSha256}`,
          );
          return;
        }
        if (rotation?.state !== "accepted") {
          throw new CountersignError(
            "state-conflict",
            `${party} keeps its CA key: ${rotation?.error?.message ?? "refused"}`,
          );
        }
        if (options.json) return printJson({ ...rotation, keys: done.keys });
        const present = done.keys.find((key) => key.present);
        print(
          `${party} signs with its new CA key ${present?.keyId ?? "?"} from size ${rotation.effectiveSize} of its ledger on`,
        );
      } finally {
        client.close();
      }
    });
}

function showPlan({ keys, next }: Rotations, json: boolean | undefined): void {
  if (next === null) throw new CountersignError("grant-missing", "this site holds no grant, so it has no CA to rotate");
  const present = keys.find((key) => key.present);
  if (json) return printJson({ ...next, present });
  print(`a key "${next.label}" would be made in the CA's token, and ${next.parent} asked to certify it`);
  print(`the present one, ${present?.keyId ?? "?"}, would sign CRLs only, until ${present?.notAfter ?? "?"}`);
}
