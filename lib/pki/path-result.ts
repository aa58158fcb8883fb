import type { Certificate } from "./certificate.ts";

/** Why a path was refused. Stable: scripts and records name these. */
export type PathReason =
  // what was handed in
  | "chain-empty"
  | "chain-too-long"
  | "roots-missing"
  | "certificate-malformed"
  | "leaf-is-root"
  // the search
  | "issuer-unknown"
  | "search-limit"
  | "signature-invalid"
  | "key-identifier-mismatch"
  | "root-not-self-issued"
  // each certificate
  | "key-unsupported"
  | "key-weak"
  | "signature-algorithm-unsupported"
  | "signature-algorithm-mismatch"
  | "not-yet-valid"
  | "expired"
  | "name-empty"
  | "not-a-ca"
  | "key-usage"
  | "basic-constraints"
  | "key-identifier-missing"
  | "extension-critical"
  | "extension-unknown"
  | "extension-duplicate"
  | "policy-unsupported"
  | "policy-not-satisfied"
  // the path
  | "path-length-exceeded"
  | "extended-key-usage"
  | "name-constraint-violated"
  | "name-constraint-unsupported"
  // revocation
  | "revoked"
  | "crl-missing"
  | "crl-stale"
  | "crl-not-yet-valid"
  | "crl-malformed"
  | "crl-issuer"
  | "crl-other-key"
  | "crl-unsupported"
  | "crl-signature-invalid";

export interface PathFailure {
  readonly reason: PathReason;
  /** Position in the path: 0 is the leaf. For what was handed in and can't be parsed: position in the input. */
  readonly index: number;
  readonly message: string;
}

export type PathResult =
  | {
      readonly ok: true;
      /** Leaf first, the trusted root last */
      readonly path: readonly Certificate[];
      /** For each certificate but the root: whether a current CRL of its issuer was seen */
      readonly revocationChecked: readonly boolean[];
      /** OIDs of the certificate policies that hold for the path, in the top issuer's names; anyPolicy's: all do */
      readonly policies: readonly string[];
    }
  | ({ readonly ok: false } & PathFailure);

/** Thrown inside the validation, never out of it. */
export class PathError extends Error {
  readonly failure: PathFailure;
  constructor(reason: PathReason, index: number, message: string) {
    super(message);
    this.failure = { reason, index, message };
  }
}
