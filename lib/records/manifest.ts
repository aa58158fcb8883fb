import { z } from "zod";
import { utf8, concatBytes } from "../domain/bytes.ts";
import { sha256, type Sha256 } from "../domain/hash.ts";
import { canonicalJson } from "../domain/json.ts";
import { auditPath, certificateDer, lotId, sha256Hex, timestamp } from "./primitives.ts";

/**
 * What a station (or a technician) signs once for a whole batch, as DSSE: the RFC 6962 root over the batch's items.
 * The items travel beside it; each line record carries its item's path, so one item proves itself without the others.
 */
export const manifest = z.strictObject({
  schema: z.literal(1),
  /** Names the batch for good: posting it again gives the first answer. */
  id: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/),
  kind: z.enum(["built", "certify", "install"]),
  lot: lotId,
  keyId: sha256Hex,
  /** the signer's certificate by the party's infrastructure CA: who signed can be told years later */
  certificate: certificateDer,
  created: timestamp,
  count: z.int().min(1).max(10_000),
  root: sha256Hex,
});
export type Manifest = z.infer<typeof manifest>;

/** Role (subject OU) of the certificate that signs each kind of batch. */
export const MANIFEST_SIGNERS: Readonly<Record<Manifest["kind"], string>> = {
  built: "station",
  certify: "station",
  install: "technician",
};

/** Where a line record's evidence came from. */
export const intake = z.discriminatedUnion("kind", [
  z.strictObject({ kind: z.literal("manifest"), digest: sha256Hex, index: z.int().min(0), path: auditPath }),
  z.strictObject({ kind: z.literal("est"), csrSha256: sha256Hex, clientCertificateSha256: sha256Hex }),
]);
export type Intake = z.infer<typeof intake>;

/** The leaf of a `built` or `certify` manifest. */
export function csrItem(csrSha256: string): Uint8Array {
  return canonicalJson(["csr", csrSha256]);
}

/** The leaf of an `install` manifest; place and time are commitments. */
export function installItem(deviceId: string, place: string, time: string): Uint8Array {
  return canonicalJson(["install", deviceId, place, time]);
}

/** The leaf of a handoff's list. */
export interface HandoffItem {
  readonly deviceId: string;
  readonly spkiSha256: string;
  readonly csrSha256: string;
  readonly slot: number;
  /** leaf hash of the device's last act in the giver's ledger */
  readonly prev: string;
}

/** A receipt's discrepancy that begins with the device's ID keeps the device out. */
export function isKeptOut(deviceId: string, discrepancies: readonly string[]): boolean {
  return discrepancies.some((text) => text.startsWith(`${deviceId}: `));
}

export function handoffItem(item: HandoffItem): Uint8Array {
  return canonicalJson(["handoff", item.deviceId, item.spkiSha256, item.csrSha256, item.slot, item.prev]);
}

/** SHA-256(domain, 0x0A, salt32, canonical value): hides a personal value until its salt is shown; deleting the salt erases it. */
export function commitment(domain: string, salt: Uint8Array, value: unknown, hash: Sha256 = sha256): Uint8Array {
  if (salt.length !== 32) throw new RangeError("a commitment's salt has 32 bytes");
  return hash(concatBytes(utf8(`countersign/commitment/v1/${domain}\n`), salt, canonicalJson(value)));
}
