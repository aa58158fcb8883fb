import type { Signer } from "../../lib/domain/signing.ts";
import type { IssuingContext } from "../issuing/context.ts";

/** What reconciliation needs of its site. */
export interface ReconcileContext extends Pick<IssuingContext, "db" | "acts" | "party" | "now"> {
  readonly actSigner: Signer;
}
