import { sha256Hex } from "../../lib/domain/hash.ts";
import type { Db } from "../../store/db.ts";
import { findCurrentGrant } from "../../store/grants.ts";
import { listHubLineCas, listHubLines, type HubLine } from "../../store/hub-lines.ts";

/** The lines whose hub hasn't been brought the CA's present certificate yet; one that it refused is the operator's. */
export async function staleHubLines(db: Db, hubs: ReadonlySet<string>): Promise<HubLine[]> {
  const grant = await findCurrentGrant(db);
  if (!grant) return [];
  const sha256 = sha256Hex(grant.certificate);
  const [lines, cas] = await Promise.all([listHubLines(db), listHubLineCas(db)]);
  const brought = ({ hub, line }: HubLine): boolean =>
    cas.some((ca) => ca.hub === hub && ca.line === line && ca.caSha256 === sha256 && ca.state !== "requested");
  return lines.filter((line) => hubs.has(line.hub) && !brought(line));
}
