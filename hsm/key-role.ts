import { CountersignError } from "../lib/domain/errors.ts";

/**
 * What a key may sign. The role stands in the key's own CKA_LABEL, so it is a property of the key in the token and not
 * of a caller's claim: `ca`, `root` and `infra` are certificate authorities, also with a suffix after a hyphen
 * (`ca-2027`, for rotation); every other label is a plain signing key.
 */
export type KeyRole = "ca" | "signing";

const CA_LABEL = /^(?:ca|root|infra)(?:-.*)?$/i;
const KEY_LABEL = /^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$/;

export function roleOfLabel(label: string): KeyRole {
  return CA_LABEL.test(label) ? "ca" : "signing";
}

/** @throws CountersignError `input-invalid` */
export function assertKeyLabel(label: string): string {
  if (!KEY_LABEL.test(label)) {
    throw new CountersignError(
      "input-invalid",
      `key label ${JSON.stringify(label.slice(0, 80))} is not allowed: use 1 to 64 of A-Z a-z 0-9 . _ : -`,
    );
  }
  return label;
}

/**
 * @throws CountersignError `unauthorized` when a CA key is asked for as a plain signer, or the other way round: a CA
 * key that signed bytes of a caller's choosing would be a certificate for anything
 */
export function assertRole(label: string, wanted: KeyRole): void {
  const role = roleOfLabel(label);
  if (role === wanted) return;
  throw new CountersignError(
    "unauthorized",
    role === "ca"
      ? `key "${label}" is a CA key: it signs only linted certificates, CRLs and its own request (caKey, generateCaKey)`
      : `key "${label}" is not a CA key: CA keys are labelled ca, root or infra, or begin with one of them and a hyphen`,
    { details: { key: label } },
  );
}
