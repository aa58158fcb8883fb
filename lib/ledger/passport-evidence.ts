import type { ParsedEntry } from "../records/statement.ts";
import type { Opening } from "../records/opening.ts";
import type { Passport } from "../records/passport.ts";

/** What a certificate of this profile is for. */
export function purposeOf(profile: string): "idevid" | "ldevid" {
  return profile === "ldevid" ? "ldevid" : "idevid";
}

/** What a passport holds, unpacked: bytes as they were logged and signed. */
export interface PassportEvidence {
  readonly device: Passport["device"];
  readonly policySha256: string;
  /** DER, the device's first, the root's left out */
  readonly chains: readonly {
    readonly purpose: "idevid" | "ldevid";
    readonly certificates: readonly Uint8Array[];
  }[];
  readonly logs: Passport["logs"];
  readonly acts: readonly PassportEntry[];
  /** DSSE envelopes */
  readonly manifests: readonly Uint8Array[];
  readonly openings: readonly Opening[];
}

export interface PassportEntry {
  readonly origin: string;
  readonly index: number;
  /** the ledger entry's exact bytes */
  readonly entry: Uint8Array;
  /** inclusion proof, leaf's sibling first; once it was packed, without what earlier acts' proofs have shown */
  readonly path: readonly Uint8Array[];
  /** what reading the entry gave, where that was done already: most acts are in many passports */
  readonly read?: { readonly parsed: ParsedEntry; /** hex */ readonly leafHash: string };
}
