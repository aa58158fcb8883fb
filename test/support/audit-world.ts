import { auditLedgers, type AuditReport } from "../../lib/ledger/audit/ledgers.ts";
import { opensslVerify, type MemoryLog } from "./memory-log.ts";
import type { TestWorld } from "./world.ts";

/**
 * What an audit of the world's ledgers reports.
 *
 * @param instead by party: a ledger that it shows in the place of its own
 * @param previous reads what an older copy held
 */
export async function auditWorld(
  world: TestWorld,
  instead: ReadonlyMap<string, MemoryLog> = new Map(),
  previous?: (party: string, path: string) => Promise<Uint8Array | undefined>,
): Promise<AuditReport> {
  const parties = new Map([world.x, world.y, world.z].map((party) => [party.id, party]));
  const { report } = await auditLedgers({
    root: world.root,
    policy: world.policy,
    verify: opensslVerify,
    ...(previous === undefined ? {} : { previous }),
    fetch: async (id, path) => {
      const party = parties.get(id)!;
      return path.startsWith("blobs/") ? party.blobs.get(path.slice(6)) : (instead.get(id) ?? party.log).fetch(path);
    },
  });
  return report;
}
