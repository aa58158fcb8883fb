import { CountersignError } from "../../lib/domain/errors.ts";
import type { ActRef } from "../../lib/records/primitives.ts";
import type { Acts } from "../ledger/acts.ts";

/** How an acceptance is named among this site's acts; the workflow's id is `acceptance/<party>`. */
export function acceptanceStep(party: string, grantLeafHash: string): { workflowId: string; stepKey: string } {
  return { workflowId: `acceptance/${party}`, stepKey: `acceptance/${grantLeafHash}` };
}

/** The leaf hash of the act by which this site accepted a grant. @throws CountersignError `grant-missing` */
export async function standingAct(acts: Acts, party: string, grant: ActRef): Promise<string> {
  const { workflowId, stepKey } = acceptanceStep(party, grant.leafHash);
  const accepted = await acts.find(workflowId, stepKey);
  if (accepted) return accepted.leafHash;
  throw new CountersignError("grant-missing", "this site's ledger holds no acceptance of its grant");
}
