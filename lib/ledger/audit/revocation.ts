import { toHex } from "../../domain/bytes.ts";
import type { ActRef } from "../../records/primitives.ts";
import { CLOCKS_APART_MS } from "./form.ts";
import { refKey, wrong, type AuditState, type PartyState, type Placed, type RevocationState } from "./state.ts";

/**
 * A party takes back what it issued itself: the certificate is in its own ledger, and what was said of it last is what
 * the act continues. For good is for good.
 */
export function onRevoked(at: Placed<"revoked">, party: PartyState, state: AuditState): void {
  const { fields, subject: subjects, prev, time } = at.act;
  const subject = subjects[0]!;
  const invalid = (why: string): void => wrong(state, at, "revocation-invalid", why, subject.name);
  const ref = { origin: party.log.name, leafHash: fields.certificate.act };
  const key = state.seen.find(ref);
  const certificate = fields.target === "ca" ? childCa(ref, subject.name, state) : ofDevice(key, subject.name, state);
  if (certificate === undefined) return invalid(`the act that it names holds no certificate of this ${fields.target}`);
  if (
    certificate.serial !== fields.certificate.serial ||
    certificate.sha256 !== fields.certificate.sha256 ||
    certificate.spkiSha256 !== subject.digest.sha256
  ) {
    return invalid("the certificate is not the one that the act it names holds");
  }
  const before = state.revocations.get(key);
  const continued = { origin: party.log.name, leafHash: before?.leafHash ?? fields.certificate.act };
  if (!prev.some((one) => refKey(one) === refKey(continued))) {
    return invalid("it doesn't continue what was said of the certificate last");
  }
  if (before?.effect === "final") return invalid("the certificate was revoked for good before");
  if (fields.effect === "hold" && before?.effect === "hold") return invalid("the certificate is held already");
  if (fields.effect === "lift" && before?.effect !== "hold") return invalid("the certificate wasn't held");
  state.revocations.set(key, {
    party: party.id,
    index: at.index,
    leafHash: at.leafHash,
    target: fields.target,
    subject: subject.name,
    effect: fields.effect,
    reason: fields.effect === "final" ? fields.reason : "certificateHold",
    time: Date.parse(time),
  });
}

interface Named {
  readonly serial: string;
  /** SHA-256 of the DER, hex */
  readonly sha256: string;
  readonly spkiSha256: string;
}

function childCa(ref: ActRef, child: string, state: AuditState): Named | undefined {
  const grant = state.grants.get(refKey(ref));
  if (grant?.fields.child !== child) return undefined;
  const { serial, der, spki } = grant.chain[0]!;
  const digest = (bytes: Uint8Array): string => toHex(state.sha256(bytes));
  return { serial, sha256: digest(der), spkiSha256: digest(spki) };
}

function ofDevice(act: number, id: string, state: AuditState): Named | undefined {
  const device = state.devices.get(id);
  if (device?.certificateAct === undefined || device.certificateAct !== act) return undefined;
  const [, serial] = state.serials.name(device.certificateSerial!).split("#");
  return { serial: serial!, sha256: device.certificateSha256!, spkiSha256: device.spkiSha256 };
}

/** Did the party's own ledger, before this, revoke or hold the certificate that this act of it holds? */
export function isTakenBack(certificateAct: number | undefined, party: PartyState, state: AuditState): boolean {
  if (certificateAct === undefined) return false;
  const revocation = state.revocations.get(certificateAct);
  return revocation?.party === party.id && revocation.effect !== "lift";
}

/** What is revoked or held when every act has been looked at. */
export function* standingRevocations(state: AuditState): Generator<RevocationState> {
  for (const revocation of state.revocations.values()) if (revocation.effect !== "lift") yield revocation;
}

/**
 * A CA that certifies after it was revoked for good. Two ledgers have no common order, so their parties' clocks have to
 * do: who puts his own back is found by the cosignatures' times, not here.
 */
export function reportRevokedCas(state: AuditState): void {
  for (const { target, subject, party, time, effect } of state.revocations.values()) {
    const last = state.parties.get(subject)?.lastCertified;
    if (target !== "ca" || effect !== "final" || last === undefined || last.time <= time + CLOCKS_APART_MS) continue;
    state.findings.add({
      severity: "error",
      code: "revoked",
      party: subject,
      index: last.index,
      message: `certified: ${party} revoked the party's CA at ${new Date(time).toISOString()}, before it certified this`,
    });
  }
}
