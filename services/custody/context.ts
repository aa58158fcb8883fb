import { CountersignError } from "../../lib/domain/errors.ts";
import type { Signer } from "../../lib/domain/signing.ts";
import type { Db } from "../../store/db.ts";
import type { Acts } from "../ledger/index.ts";
import type { Cosigned } from "../witness/release.ts";

/** What opening lots, handing devices over, injecting and installing need of their site. */
export interface CustodyContext {
  readonly db: Db;
  readonly acts: Acts;
  readonly party: string;
  /** signs this party's acts */
  readonly actSigner: Signer;
  /** signs images again, for the formats that need it */
  readonly imageSigner?: Signer | undefined;
  /** template images that layouts name */
  readonly firmwareDir: string;
  /** `<lot>/<device>/` images and receipts */
  readonly imagesDir: string;
  /** what a release waits for; absent: nobody witnesses this site's ledger */
  readonly cosigned?: Cosigned;
  readonly now?: () => Date;
}

export const nowOf = (context: Pick<CustodyContext, "now">): Date => (context.now ?? (() => new Date()))();
export const handoffWorkflowId = (id: string): string => `handoff/${id}`;

/** Nothing more is recorded of a device whose certificate is taken back. */
export function revokedError(): CountersignError {
  return new CountersignError("custody-conflict", "the device's certificate is revoked or held");
}
