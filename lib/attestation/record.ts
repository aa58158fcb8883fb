import { fromBase64, toHex } from "../domain/bytes.ts";
import { sha256Hex } from "../domain/hash.ts";
import type { AttestedFields, TpmEvidenceRecord } from "../records/attestation.ts";
import type { TpmAttestation, TpmEvidence } from "./verify.ts";

/** The evidence's bytes. */
export function evidenceOf(record: TpmEvidenceRecord): TpmEvidence {
  return {
    ekCertificates: record.ekCertificates.map(fromBase64),
    akPublic: fromBase64(record.ak.public),
    akParents: record.ak.parents.map(fromBase64),
    keyPublic: fromBase64(record.key.public),
    keyParents: record.key.parents.map(fromBase64),
    attest: fromBase64(record.attest),
    signature: fromBase64(record.signature),
  };
}

/** What the `attested` act says of a verified attestation: the same evidence always gives the same. */
export function summaryOf({ tpm, ak, key, info }: TpmAttestation): Omit<AttestedFields, "lot" | "slot" | "evidence"> {
  const { milliseconds, resetCount, restartCount, safe } = info.clock;
  return {
    kind: "tpm2",
    tpm: {
      manufacturer: tpm.manufacturer,
      model: tpm.model,
      version: tpm.version,
      ekCertificate: sha256Hex(tpm.certificate.der),
      root: sha256Hex(tpm.root.der),
    },
    ak: toHex(ak.name),
    key: toHex(key.name),
    activated: true,
    clock: { milliseconds: String(milliseconds), resetCount, restartCount, safe },
    firmware: info.firmwareVersion.toString(16).padStart(16, "0"),
  };
}
