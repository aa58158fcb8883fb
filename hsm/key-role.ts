import { CountersignError } from "../lib/domain/errors.ts";

/**
 * What a key may sign. The role stands in the key's own CKA_LABEL, so it is a property of the key in the token and not
 * of a caller's claim: `ca`, `root` and `infra` are certificate authorities, `image` signs firmware images, both also with
 * a suffix after a hyphen (`ca-2027`, for rotation); every other label is a plain signing key.
 */
export type KeyRole = "ca" | "image" | "signing";

const CA_LABEL = /^(?:ca|root|infra)(?:-.*)?$/i;
const IMAGE_LABEL = /^image(?:-.*)?$/i;
const KEY_LABEL = /^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$/;

export function roleOfLabel(label: string): KeyRole {
  if (CA_LABEL.test(label)) return "ca";
  return IMAGE_LABEL.test(label) ? "image" : "signing";
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
 * @throws CountersignError `unauthorized` when a key is asked for in another role than its own: a CA key that signed bytes
 * of a caller's choosing would be a certificate for anything, an image key firmware for every device that trusts it
 */
export function assertRole(label: string, wanted: KeyRole): void {
  const role = roleOfLabel(label);
  if (role === wanted) return;
  throw new CountersignError("unauthorized", `key "${label}" ${role === "signing" ? NOT[wanted] : IS[role]}`, {
    details: { key: label },
  });
}

const IS: Readonly<Record<KeyRole, string>> = {
  ca: "is a CA key: it signs only linted certificates, CRLs and its own request (caKey, generateCaKey)",
  image: "is an image-signing key: it signs only firmware images (imageKey, generateImageKey)",
  signing: "is a plain signing key",
};
const NOT: Readonly<Record<KeyRole, string>> = {
  ca: "is not a CA key: CA keys are labelled ca, root or infra, or begin with one of them and a hyphen",
  image: "is not an image-signing key: those are labelled image, or begin with that and a hyphen",
  signing: "is not a plain signing key",
};
