import { fromBase64, fromHex, fromUtf8, toHex } from "../../domain/bytes.ts";
import { isCountersignError } from "../../domain/errors.ts";
import { canonicalJson } from "../../domain/json.ts";
import { evidenceOf, readPublic, summaryOf, verifyTpmAttestation } from "../../attestation/index.ts";
import { attestationRecord, type AttestationRecord } from "../../records/attestation.ts";
import { heldDevice, openLot } from "./custody.ts";
import { wrong, type AuditState, type LotState, type PartyState, type Placed } from "./state.ts";

/**
 * A device's attestation, by the party that issues for its lot and before it certifies the device. Where the evidence is
 * at hand it is verified again, and the act must say what follows from it; that the attestation key opened its credential
 * is the party's word.
 */
export async function onAttested(at: Placed<"attested">, party: PartyState, state: AuditState): Promise<void> {
  const { fields } = at.act;
  const { name, digest } = at.act.subject[0]!;
  const lot = openLot(at, fields.lot, party, state);
  if (!lot) return;
  const invalid = (why: string): void => wrong(state, at, "attestation-invalid", why, name);
  if (lot.terms.issuer !== party.id) return invalid(`${party.id} doesn't issue for this lot`);
  if (lot.terms.attestation === undefined) return invalid("the lot doesn't ask for an attestation");
  const device = heldDevice(at, party, state);
  if (!device) return;
  if (device.certified) return invalid("it comes after the device's certificate");
  if (device.attested) return invalid("the device was attested before");
  device.setAttested();
  if (!lot.terms.attestation.vendorRoots.includes(fields.tpm.root)) {
    return invalid("its TPM's vendor is none of those that the lot names");
  }
  const [blob, second] = at.act.blobs.filter((one) => one.name === "attestation");
  if (blob?.sha256 !== fields.evidence || second !== undefined) return invalid("it doesn't name its evidence once");
  const bytes = await state.blob(party.id, fields.evidence);
  if (bytes === undefined) return;
  const record = read(bytes);
  if (record === undefined) return invalid("its evidence can't be read");
  if (record.deviceId !== name || record.lot !== fields.lot) return invalid("its evidence is about another device");
  const fault = await evidenceFault(at, record, lot, digest.sha256, state);
  if (fault !== undefined) invalid(fault);
}

function read(bytes: Uint8Array): AttestationRecord | undefined {
  try {
    return attestationRecord.safeParse(JSON.parse(fromUtf8(bytes))).data;
  } catch {
    return undefined;
  }
}

async function evidenceFault(
  at: Placed<"attested">,
  { evidence: stored, nonce }: AttestationRecord,
  lot: LotState,
  spkiSha256: string,
  state: AuditState,
): Promise<string | undefined> {
  const demand = lot.settings.settings?.attestation;
  if (demand === undefined) return undefined;
  try {
    const evidence = evidenceOf(stored);
    const { spki } = readPublic(evidence.keyPublic, "the device's key");
    if (toHex(state.sha256(spki)) !== spkiSha256) return "its evidence is about another key than the device's";
    const roots = demand.vendorRoots.map(fromBase64);
    const asked = { nonce: fromHex(nonce), spki, roots, at: new Date(at.act.time), verify: state.verify };
    const found = summaryOf(await verifyTpmAttestation(evidence, asked));
    const { lot: _lot, slot: _slot, evidence: _evidence, ...said } = at.act.fields;
    return toHex(canonicalJson(found)) === toHex(canonicalJson(said))
      ? undefined
      : "it says otherwise than its evidence";
  } catch (error) {
    if (!isCountersignError(error)) throw error;
    return `its evidence doesn't hold: ${error.message} [${error.code}]`;
  }
}
