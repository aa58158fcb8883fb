import { fromBase64 } from "../../domain/bytes.ts";
import { sha256Hex } from "../../domain/hash.ts";
import { signatureAlgorithmForKey } from "../../pki/algorithms.ts";
import { parseCertificate } from "../../pki/certificate.ts";
import { keyAlgorithmOf, keyId } from "../../pki/spki.ts";
import type { ActFields } from "../../records/acts.ts";
import { caKeysOf } from "./rotation.ts";
import { wrong, type AuditState, type PartyState, type Placed } from "./state.ts";

/**
 * A party's own word that its CA key signed a certificate which its ledger doesn't hold. The alarm is true evidence, and
 * what it tells of stays open; an alarm that the certificate itself contradicts is wrong.
 */
export async function onAlarm(at: Placed<"alarm">, party: PartyState, state: AuditState): Promise<void> {
  const { fields } = at.act;
  if (fields.what === "unaccounted-signatures") return onSignatureAlarm(at, fields.evidence, party, state);
  if (fields.what === "signature-counter-set-back") return onCounterSetBack(at, fields.evidence, party, state);
  if ("size" in fields.evidence) return onLargeCertificate(at, fields.evidence, party, state);
  const certificate = parseCertificate(fromBase64(fields.evidence.certificate));
  if (at.act.subject[0]!.digest.sha256 !== sha256Hex(certificate.der)) {
    return wrong(state, at, "act-invalid", "its subject is not the certificate that it shows");
  }
  const keys = caKeysOf(party);
  if (keys.length === 0) return wrong(state, at, "act-invalid", "its party had no CA yet");
  const { tbs: message, signature, serial, subject } = certificate;
  let signed = false;
  for (const spki of keys) {
    const algorithm = signatureAlgorithmForKey(keyAlgorithmOf(spki));
    signed ||= await state.verify({ spki, algorithm, message, signature });
  }
  if (!signed) {
    return wrong(state, at, "act-invalid", "the party's CA key did not sign the certificate that it shows");
  }
  if (state.devices.get(subject.cn ?? "")?.certificateSha256 === sha256Hex(certificate.der)) {
    return wrong(state, at, "act-invalid", "the certificate that it shows is in the ledger");
  }
  state.findings.add({
    severity: "open",
    code: "alarm",
    party: at.party,
    index: at.index,
    ...(subject.cn === undefined ? {} : { subject: subject.cn }),
    message: `the CA key of ${at.party} signed a certificate (serial ${serial}) that no ledger holds`,
  });
}

/** What has no certificate in the ledger is the party's word about its own CA key alone. */
function isAboutOwnKey(at: Placed<"alarm">, caKey: string, party: PartyState, state: AuditState): boolean {
  const keys = caKeysOf(party);
  if (keys.length === 0) wrong(state, at, "act-invalid", "its party had no CA yet");
  else if (!keys.some((spki) => keyId(spki) === caKey))
    wrong(state, at, "act-invalid", "its key is not the party's CA key");
  else return true;
  return false;
}

type LargeEvidence = { readonly caKey: string; readonly size: number };

/** Its bytes aren't in the ledger, so the party's word is all there is: it speaks against the party itself. */
function onLargeCertificate(
  at: Placed<"alarm">,
  { caKey, size }: LargeEvidence,
  party: PartyState,
  state: AuditState,
): void {
  if (!isAboutOwnKey(at, caKey, party, state)) return;
  const { sha256 } = at.act.subject[0]!.digest;
  state.findings.add({
    severity: "open",
    code: "alarm",
    party: at.party,
    index: at.index,
    message: `the CA key of ${at.party} signed a certificate of ${size} bytes (SHA-256 ${sha256}) that no ledger holds`,
  });
}

type SignatureEvidence = Extract<ActFields<"alarm">, { what: "unaccounted-signatures" }>["evidence"];

/** The counter is the token's, so nothing here can hold the alarm against it; what it says of itself must agree. */
function onSignatureAlarm(
  at: Placed<"alarm">,
  { caKey, counted, since, accounted }: SignatureEvidence,
  party: PartyState,
  state: AuditState,
): void {
  if (!isAboutOwnKey(at, caKey, party, state)) return;
  const excess = counted - since - accounted;
  if (excess <= 0) return wrong(state, at, "act-invalid", "the signatures it counts are accounted for");
  state.findings.add({
    severity: "open",
    code: "alarm",
    party: at.party,
    index: at.index,
    message: `the CA key of ${at.party} signed ${excess} times more than the party asked it to`,
  });
}

type CounterEvidence = Extract<ActFields<"alarm">, { what: "signature-counter-set-back" }>["evidence"];

/** Another token in the old one's place, or somebody who hides signatures: nothing here can tell, so it stays open. */
function onCounterSetBack(
  at: Placed<"alarm">,
  { caKey, counted, before }: CounterEvidence,
  party: PartyState,
  state: AuditState,
): void {
  if (!isAboutOwnKey(at, caKey, party, state)) return;
  if (counted >= before) return wrong(state, at, "act-invalid", "the counter that it tells of didn't go back");
  state.findings.add({
    severity: "open",
    code: "alarm",
    party: at.party,
    index: at.index,
    message: `the token of ${at.party} counted ${before} signatures of its CA key, and ${counted} later: the count was set back`,
  });
}
