import { join } from "node:path";
import { z } from "zod";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { httpSource } from "../../../lib/ledger/http.ts";
import { readStackFile } from "../../site/stack/stack-file.ts";
import { stateFolder } from "../site-client.ts";
import { folderFetch, readNeeded } from "./folder.ts";
import type { LedgerSource } from "./history.ts";

const summary = z.object({ parties: z.array(z.object({ id: z.string(), vkey: z.string() })) });

/** All parties' ledgers: of an output folder, or of the running sites. */
export function ledgerSources(from: string | undefined): Promise<LedgerSource[]> {
  return from === undefined ? runningSources() : folderSources(from);
}

async function folderSources(dir: string): Promise<LedgerSource[]> {
  const file = join(dir, "summary.json");
  let parties: z.infer<typeof summary>["parties"];
  try {
    parties = summary.parse(JSON.parse(Buffer.from(await readNeeded(file, "the summary")).toString("utf8"))).parties;
  } catch (cause) {
    throw new CountersignError("input-invalid", `${dir} is no output folder: ${(cause as Error).message}`, { cause });
  }
  return parties.map(({ id, vkey }) => ({ party: id, vkey, fetch: folderFetch(join(dir, "ledger", id)) }));
}

async function runningSources(): Promise<LedgerSource[]> {
  const { sites } = await readStackFile(stateFolder());
  return sites.map(({ id, vkey, publicUrl }) => ({ party: id, vkey, fetch: httpSource(`${publicUrl}/ledger`) }));
}
