/**
 * Stable error codes. A code is never renamed or reused; scripts switch on it.
 *
 * - `invalid`: the input is malformed or misused (exit 2, HTTP 400)
 * - `refused`: well-formed, but policy, grant or state says no (exit 1, HTTP 403 or 409)
 * - `unverified`: evidence that doesn't hold (exit 1, HTTP 422)
 * - `unavailable`: a component is missing, locked or out of reach (exit 3, HTTP 503)
 * - `internal`: a fault of ours (exit 3, HTTP 500)
 */
export type ErrorKind = "invalid" | "refused" | "unverified" | "unavailable" | "internal";

export const ERROR_KINDS = {
  internal: "internal",

  // Input
  "input-invalid": "invalid",
  "input-too-large": "invalid",
  usage: "invalid",
  "not-found": "refused",
  "already-exists": "refused",
  unauthorized: "refused",
  "state-conflict": "refused",

  // DER, PEM, CSR, certificate
  "der-invalid": "invalid",
  "pem-invalid": "invalid",
  "csr-invalid": "invalid",
  "csr-signature-invalid": "refused",
  "key-unsupported": "refused",
  "key-weak": "refused",
  "certificate-invalid": "invalid",
  "crl-invalid": "invalid",
  "profile-invalid": "invalid",
  "profile-violation": "refused",
  "path-invalid": "unverified",

  // Issuance
  "device-id-invalid": "invalid",
  "device-id-outside-namespace": "refused",
  "device-id-other-key": "refused",
  "key-other-device-id": "refused",
  "device-not-in-lot": "refused",
  "quota-exceeded": "refused",
  "slots-exhausted": "refused",
  "grant-expired": "refused",
  "grant-not-yet-valid": "refused",
  "grant-missing": "refused",
  "grant-exceeded": "refused",
  "grant-mismatch": "refused",
  "profile-not-granted": "refused",
  "delegation-too-deep": "refused",
  "lot-not-found": "refused",
  "lot-not-open": "refused",

  // Attestation of a device's key
  "attestation-malformed": "invalid",
  "attestation-required": "refused",
  "attestation-unasked": "refused",
  "attestation-expired": "refused",
  "attestation-replayed": "refused",
  "attestation-not-activated": "refused",
  "attestation-ek-untrusted": "refused",
  "attestation-ak-unfit": "refused",
  "attestation-signature-invalid": "refused",
  "attestation-other-key": "refused",
  "attestation-key-exportable": "refused",

  // Parties and envelopes
  "envelope-invalid": "invalid",
  "envelope-forged": "refused",
  "envelope-replayed": "refused",
  "envelope-out-of-order": "refused",
  "envelope-expired": "refused",
  "sender-unknown": "refused",
  "invitation-invalid": "refused",
  "invitation-spent": "refused",
  "possession-unproven": "refused",

  // Custody
  "custody-conflict": "refused",
  "handoff-mismatch": "refused",
  "read-back-mismatch": "refused",

  // Ledger
  "note-invalid": "unverified",
  "checkpoint-invalid": "unverified",
  "tile-invalid": "unverified",
  "proof-invalid": "unverified",
  "act-invalid": "unverified",
  "act-conflict": "refused",
  "ledger-forked": "unverified",
  "ledger-behind": "refused",
  "passport-invalid": "unverified",
  "opening-invalid": "unverified",
  "policy-invalid": "invalid",
  "audit-failed": "unverified",

  // Firmware
  "image-unknown-format": "invalid",
  "image-invalid": "invalid",
  "image-encrypted": "refused",
  "image-region-missing": "refused",
  "image-region-too-small": "refused",
  "image-region-overlap": "refused",
  "image-holds-other-chain": "refused",
  "image-no-chain": "unverified",
  "image-chain-ambiguous": "unverified",

  // HSM
  "hsm-unavailable": "unavailable",
  "hsm-token-missing": "unavailable",
  "hsm-pin-wrong": "unavailable",
  "hsm-pin-locked": "unavailable",
  "hsm-key-missing": "unavailable",
  "hsm-key-exists": "refused",
  "hsm-key-unextractable": "refused",
  "hsm-signature-invalid": "internal",

  // Hub
  "hub-ca-not-verified": "refused",
  "hub-code-expired": "refused",
  "hub-code-wrong": "refused",
  "hub-no-path": "refused",
  "hub-device-mismatch": "refused",
  "hub-device-offline": "refused",
  "hub-device-disabled": "refused",
  "hub-device-unregistered": "refused",
  "hub-ca-disabled": "refused",
  "hub-revoked": "refused",
  "hub-crl-stale": "refused",
  "hub-unlogged": "refused",
  "hub-refused": "refused",
  "hub-busy": "unavailable",

  // Intake
  "queue-full": "unavailable",

  // Components
  "component-missing": "unavailable",
  "component-unreachable": "unavailable",
  timeout: "unavailable",
  "rotation-under-way": "unavailable",
  interrupted: "unavailable",
  "witnesses-missing": "unavailable",
} as const satisfies Record<string, ErrorKind>;

export type ErrorCode = keyof typeof ERROR_KINDS;
