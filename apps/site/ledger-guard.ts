import { nodeVerify } from "../../hsm/index.ts";
import { errorCodeOf } from "../../lib/domain/errors.ts";
import { parseVkey } from "../../lib/ledger/note.ts";
import { LedgerCopy } from "../../services/ledger/copy.ts";
import type { SequencerOptions } from "../../services/ledger/index.ts";
import { assertHoldsAll } from "../../services/ledger/sighting.ts";
import { logVkey, type Identity } from "../../services/parties/identity.ts";
import { ledgerSightings } from "../../services/recovery/sightings.ts";
import type { SitePolicy } from "../../services/witness/policy.ts";
import type { Db } from "../../store/db.ts";
import { readHead } from "../../store/ledger.ts";
import type { Logger } from "../http/logger.ts";
import type { SiteConfig } from "./config.ts";

type Guard = Required<Pick<SequencerOptions, "seen" | "keep">>;

/** What keeps a site from going on with a database that has forgotten what was published. */
export function ledgerGuard(
  config: SiteConfig,
  db: Db,
  identity: Identity,
  policy: SitePolicy,
): { readonly copy: LedgerCopy; readonly guard: Guard } {
  const copy = new LedgerCopy({ db, folder: config.ledgerDir });
  const log = parseVkey(logVkey(identity));
  const { spki } = identity.log;
  const guard: Guard = {
    keep: (checkpoint) => copy.keep(checkpoint),
    seen: (head) => ledgerSightings({ log, spki, verify: nodeVerify, copy, policy }, head),
  };
  return { copy, guard };
}

/**
 * The same look before anything else of the site starts: it had better not come up than come up mute.
 * @throws CountersignError `ledger-behind`, `ledger-forked`
 */
export async function assertLedgerWhole(db: Db, identity: Identity, { seen }: Guard, logger: Logger): Promise<void> {
  const head = await readHead(db);
  if (head === undefined) return;
  try {
    await assertHoldsAll(db, head, await seen(head), { spki: identity.log.spki, verify: nodeVerify });
  } catch (error) {
    // The witnesses may come up later: the sequencer asks again, and signs nothing before.
    if (errorCodeOf(error) !== "witnesses-missing") throw error;
    logger.warn({ err: error }, "the ledger waits for its witnesses");
  }
}
