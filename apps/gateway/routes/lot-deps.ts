import { z } from "zod";
import { pemEncode } from "../../../lib/pki/pem.ts";
import { lotId } from "../../../lib/records/primitives.ts";
import type { CustodyContext } from "../../../services/custody/context.ts";
import type { BatchWatch } from "../../../services/intake/wait.ts";
import type { Queryable } from "../../../store/db.ts";
import { grantedChains } from "../../../store/grants.ts";
import type { GatewayDeps } from "../deps.ts";
import type { Dispatcher } from "../dispatcher.ts";

/** What the routes of lots and devices share. */
export interface LotDeps extends Pick<GatewayDeps, "db" | "identity" | "workflows"> {
  readonly custody: CustodyContext;
  readonly dispatcher: Dispatcher;
  readonly watch: BatchWatch;
  readonly waitingBatches?: number | undefined;
}

export const lotParams = z.strictObject({ id: lotId });

/** Gives a certificate's chain as PEM: under it the CA's certificate of the grant it was issued under, the root left out. */
export async function chainsPem(
  db: Queryable,
): Promise<(issued: { certificate: Uint8Array | null; grantLeaf: string | null }) => string | null> {
  const above = new Map<string, string>();
  for (const [grant, chain] of await grantedChains(db)) {
    above.set(grant, chain.map((der) => pemEncode("CERTIFICATE", der)).join(""));
  }
  return ({ certificate, grantLeaf }) =>
    certificate === null ? null : pemEncode("CERTIFICATE", certificate) + (above.get(grantLeaf ?? "") ?? "");
}
