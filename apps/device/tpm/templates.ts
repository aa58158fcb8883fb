import { concatBytes, fromHex } from "../../../lib/domain/bytes.ts";
import { tpm2b, u16, u32 } from "../../../lib/attestation/index.ts";

/** TPMT_PUBLIC templates of the keys that a device makes to attest. */

const NONE = u16(0x0010);
const AES_128_CFB = concatBytes(u16(0x0006), u16(128), u16(0x0043));
const AES_256_CFB = concatBytes(u16(0x0006), u16(256), u16(0x0043));
/** PolicyA_SHA256: TPM2_PolicySecret of the endorsement hierarchy (TCG EK Credential Profile annex B). */
const POLICY_A = fromHex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa");

/** PolicyB_SHA384: PolicyA or PolicyC; nobody needs it, as the keys by these templates may be used by their authorization too. */
const POLICY_B_SHA384 = fromHex(
  "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12",
);

const EK_ATTRIBUTES = 0x000300b2;
/** userWithAuth besides */
const EK_HIGH_ATTRIBUTES = 0x000300f2;
/** fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign */
export const AK_ATTRIBUTES = 0x00050472;

/** TCG EK Credential Profile: template L-1, RSA 2048. */
export const EK_RSA = concatBytes(
  ...[u16(0x0001), u16(0x000b), u32(EK_ATTRIBUTES), tpm2b(POLICY_A), AES_128_CFB, NONE, u16(2048), u32(0)],
  tpm2b(new Uint8Array(256)),
);

/** Template L-2, P-256. */
export const EK_P256 = concatBytes(
  ...[u16(0x0023), u16(0x000b), u32(EK_ATTRIBUTES), tpm2b(POLICY_A), AES_128_CFB, NONE, u16(0x0003), NONE],
  tpm2b(new Uint8Array(32)),
  tpm2b(new Uint8Array(32)),
);

/** Template H-3, P-384. */
export const EK_P384 = concatBytes(
  ...[u16(0x0023), u16(0x000c), u32(EK_HIGH_ATTRIBUTES), tpm2b(POLICY_B_SHA384), AES_256_CFB, NONE, u16(0x0004), NONE],
  tpm2b(new Uint8Array()),
  tpm2b(new Uint8Array()),
);

/** A key that signs by ECDSA: on P-256 with SHA-256, or on P-384 with SHA-384. */
export function signingKey(attributes: number, curve: "p256" | "p384" = "p256"): Uint8Array {
  const [id, hash] = curve === "p256" ? [u16(0x0003), u16(0x000b)] : [u16(0x0004), u16(0x000c)];
  const scheme = concatBytes(u16(0x0018), hash);
  const nothing = tpm2b(new Uint8Array());
  return concatBytes(...[u16(0x0023), hash, u32(attributes), nothing, NONE, scheme, id, NONE, nothing, nothing]);
}

/** A key that signs by RSASSA of 2048 bits with SHA-256. */
export function rsaSigningKey(attributes: number): Uint8Array {
  const scheme = concatBytes(u16(0x0014), u16(0x000b));
  const nothing = tpm2b(new Uint8Array());
  return concatBytes(...[u16(0x0001), u16(0x000b), u32(attributes), nothing, NONE, scheme, u16(2048), u32(0), nothing]);
}

/** Where the TCG EK profile has the certificates of its default keys, with the template each is for. */
export const EK_PLACES: readonly { readonly nv: number; readonly template: Uint8Array }[] = [
  { nv: 0x01c00002, template: EK_RSA },
  { nv: 0x01c0000a, template: EK_P256 },
  { nv: 0x01c00016, template: EK_P384 },
];
