import { nodeVerify } from "../../hsm/index.ts";
import { equalBytes, fromBase64 } from "../../lib/domain/bytes.ts";
import { signatureAlgorithmForKey } from "../../lib/pki/algorithms.ts";
import { parseCertificate, type Certificate } from "../../lib/pki/certificate.ts";
import { keyAlgorithmOf, keyId } from "../../lib/pki/spki.ts";
import { parseEntry } from "../../lib/records/statement.ts";
import { certifiedEntry, isCaResult, ownCaCertificates } from "../../store/reconcile.ts";
import { sha256Hex } from "../issuing/items.ts";
import { raiseAlarm } from "./alarm.ts";
import type { ReconcileContext } from "./context.ts";

export interface Seen {
  /** of the certificate's DER, hex */
  readonly sha256: string;
  /**
   * `known`: this site's CA signed it, and its ledger says so; `unknown`: its CA key signed it, and nothing here says so;
   * `foreign`: another's
   */
  readonly state: "known" | "unknown" | "foreign";
  /** the alarm act, when `unknown` */
  readonly alarm?: { readonly leafHash: string; readonly first: boolean };
}

/**
 * Holds certificates that were seen anywhere against this site's ledger. One that a CA key of this site signed and no
 * record of it names is misuse of the key: an `alarm` act says so, once, however often it is seen.
 * @param certificates DER
 * @throws CountersignError `certificate-invalid`, `der-invalid`, and what the database or the act's signer throws
 */
export async function checkSeen(context: ReconcileContext, certificates: readonly Uint8Array[]): Promise<Seen[]> {
  const parsed = certificates.map((der) => parseCertificate(der));
  const own = (await ownCaCertificates(context.db)).map((der) => parseCertificate(der).spki);
  const seen: Seen[] = [];
  for (const certificate of parsed) {
    const sha256 = sha256Hex(certificate.der);
    const signer = signerOf(certificate, own);
    if (signer === undefined) seen.push({ sha256, state: "foreign" });
    else if (await isKnown(context, certificate, signer)) seen.push({ sha256, state: "known" });
    else seen.push({ sha256, state: "unknown", alarm: await raiseAlarm(context, certificate, keyId(signer)) });
  }
  return seen;
}

/** Which of these keys signed it. By its signature alone: a thief writes what names he likes. */
export function signerOf(certificate: Certificate, keys: readonly Uint8Array[]): Uint8Array | undefined {
  for (const spki of keys) {
    const algorithm = signatureAlgorithmForKey(keyAlgorithmOf(spki));
    const { tbs: message, signature } = certificate;
    if (nodeVerify({ spki, algorithm, message, signature })) return spki;
  }
  return undefined;
}

/** The ledger's own bytes decide for devices; the table that leads to them doesn't. */
async function isKnown({ db }: ReconcileContext, certificate: Certificate, signer: Uint8Array): Promise<boolean> {
  const entry = await certifiedEntry(db, keyId(signer), certificate.serial);
  if (entry !== undefined) {
    const { act } = parseEntry(entry);
    if (act.type === "certified" && equalBytes(fromBase64(act.fields.certificate), certificate.der)) return true;
  }
  return await isCaResult(db, certificate.der);
}
