import { concatBytes, fromHex } from "../../../lib/domain/bytes.ts";
import { tpm2b, u16, u32 } from "../../../lib/attestation/index.ts";

/** TPMT_PUBLIC templates of the keys that a device makes to attest. */

const NONE = u16(0x0010);
const AES_128_CFB = concatBytes(u16(0x0006), u16(128), u16(0x0043));
/** PolicyA_SHA256: TPM2_PolicySecret of the endorsement hierarchy (TCG EK Credential Profile annex B). */
const POLICY_A = fromHex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa");

const EK_ATTRIBUTES = 0x000300b2;
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

/** A key that signs by ECDSA on P-256 with SHA-256. */
export function signingKey(attributes: number): Uint8Array {
  const scheme = concatBytes(u16(0x0018), u16(0x000b));
  const nothing = tpm2b(new Uint8Array());
  return concatBytes(
    ...[u16(0x0023), u16(0x000b), u32(attributes), nothing, NONE, scheme, u16(0x0003), NONE, nothing, nothing],
  );
}

/** A key that signs by RSASSA of 2048 bits with SHA-256. */
export function rsaSigningKey(attributes: number): Uint8Array {
  const scheme = concatBytes(u16(0x0014), u16(0x000b));
  const nothing = tpm2b(new Uint8Array());
  return concatBytes(...[u16(0x0001), u16(0x000b), u32(attributes), nothing, NONE, scheme, u16(2048), u32(0), nothing]);
}

/** Where the TCG EK profile has the certificates of its default keys, with the template each is for. */
export const EK_PLACES = [
  { nv: 0x01c00002, template: EK_RSA },
  { nv: 0x01c0000a, template: EK_P256 },
] as const;
