import { z } from "zod";
import { pemEncode } from "../../../lib/pki/pem.ts";
import { lotId } from "../../../lib/records/primitives.ts";
import type { CustodyContext } from "../../../services/custody/context.ts";
import type { BatchWatch } from "../../../services/intake/wait.ts";
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

/** PEM of this site's CA and what is above it, the root left out. */
export function issuersPem(grant: { certificate: Uint8Array; upstream: readonly Uint8Array[] } | undefined): string {
  if (grant === undefined) return "";
  const chain = [grant.certificate, ...grant.upstream.slice(0, -1)];
  return chain.map((der) => pemEncode("CERTIFICATE", der)).join("");
}
