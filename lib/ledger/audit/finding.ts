/** What an audit says of one thing that doesn't hold, or that is still open. */
export type FindingCode =
  | "root-mismatch"
  | "quorum-own"
  | "ledger-invalid"
  | "ledger-missing"
  | "ledger-forked"
  | "previous-missing"
  | "act-invalid"
  | "act-unsigned"
  | "act-repeated"
  | "reference-missing"
  | "blob-missing"
  | "keyset-invalid"
  | "ceremony-invalid"
  | "grant-missing"
  | "grant-exceeded"
  | "quota-exceeded"
  | "not-accepted"
  | "certificate-invalid"
  | "intent-missing"
  | "intake-invalid"
  | "attestation-missing"
  | "attestation-invalid"
  | "lot-invalid"
  | "slot-reused"
  | "device-invalid"
  | "custody-broken"
  | "handoff-open"
  | "device-missing"
  | "lot-open"
  | "slot-gap"
  | "intent-open"
  | "handoff-invalid"
  | "injection-invalid"
  | "revocation-invalid"
  | "rotation-invalid"
  | "revoked"
  | "hub-invalid"
  | "file-mismatch"
  | "alarm";

export interface Finding {
  /** `error`: the evidence is wrong; `open`: nothing is wrong, but something hasn't been closed yet */
  readonly severity: "error" | "open";
  readonly code: FindingCode;
  readonly party: string;
  /** index of the act in the party's ledger, where one act is at fault */
  readonly index?: number;
  readonly subject?: string;
  readonly message: string;
}

/**
 * Gathers findings. All are counted, and of each severity the first so many are listed: a thoroughly broken ledger must
 * not exhaust the auditor's memory, nor what is open hide what is wrong.
 */
export class Findings {
  readonly list: Finding[] = [];
  errors = 0;
  open = 0;
  readonly #limit: number;

  constructor(limit = 1000) {
    this.#limit = limit;
  }

  add(finding: Finding): void {
    const before = finding.severity === "error" ? this.errors++ : this.open++;
    if (before < this.#limit) this.list.push(finding);
  }
}
