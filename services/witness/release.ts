import { setTimeout as sleep } from "node:timers/promises";
import { fromHex } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { indexOfLeaf } from "../../store/cosignatures.ts";
import type { Db } from "../../store/db.ts";

/**
 * Resolves when a quorum of witnesses has cosigned a checkpoint of this site's ledger of at least so many entries.
 * Rejects with `witnesses-missing` when that takes long: the caller's own caller tries again.
 */
export type Cosigned = (size: number) => Promise<number>;

const SEQUENCED_MS = 20_000;

/**
 * Waits until others have put their names to an act of this site: what follows from it can't be denied any more.
 * @param leafHash hex; the act is recorded
 * @throws CountersignError `timeout` when the act isn't sequenced, `witnesses-missing`
 */
export async function actCosigned(db: Db, cosigned: Cosigned, leafHash: string): Promise<void> {
  for (const deadline = performance.now() + SEQUENCED_MS; performance.now() < deadline; await sleep(50)) {
    const index = await indexOfLeaf(db, fromHex(leafHash));
    if (index === undefined) continue;
    await cosigned(index + 1);
    return;
  }
  throw new CountersignError("timeout", `the act ${leafHash} isn't in the ledger yet: is the sequencer running?`);
}
