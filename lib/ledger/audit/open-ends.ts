import { reportRevokedCas } from "./revocation.ts";
import type { AuditState, DeviceState, HandoffState, LotState } from "./state.ts";

/** Names in one message; the rest is counted. */
const NAMED = 5;

/** What is left when every act has been looked at: nothing of it is wrong by itself, but a gap in a lot's slots. */
export function reportOpenEnds(state: AuditState): void {
  for (const handoff of state.handoffs.values()) reportHandoff(handoff, state);
  for (const grant of state.grants.values()) {
    if (grant.accepted) continue;
    state.findings.add({
      severity: "open",
      code: "not-accepted",
      party: grant.by,
      subject: grant.fields.id,
      message: `${grant.fields.child} hasn't accepted its grant`,
    });
  }
  for (const [key, intent] of state.intents) {
    const left = intent.count - intent.certified;
    if (left <= 0) continue;
    state.findings.add({
      severity: "open",
      code: "intent-open",
      party: state.byOrigin.get(key.slice(0, key.indexOf("#")))?.id ?? "-",
      index: intent.index,
      subject: intent.lot,
      message: `${left} of ${intent.count} certificates that were about to be signed are in no ledger`,
    });
  }
  reportRevokedCas(state);
  const devices = Map.groupBy(state.devices.values(), (device) => device.lot);
  for (const lot of state.lots.values()) reportLot(lot, devices.get(lot.id) ?? [], state);
}

function reportHandoff({ id, released, receipt }: HandoffState, state: AuditState): void {
  const { party, index, act } = released;
  const { to, count } = act.fields;
  if (receipt === undefined) {
    const message = `${count} devices were released to ${to}, which hasn't received them`;
    return state.findings.add({ severity: "open", code: "handoff-open", party, index, subject: id, message });
  }
  const { missing } = receipt;
  if (missing.length === 0) return;
  const message = `${missing.length} of ${count} devices released by ${party} didn't arrive, says ${to}, and are in nobody's hands: ${some(missing)}`;
  state.findings.add({
    severity: "open",
    code: "device-missing",
    party: to,
    index: receipt.index,
    subject: id,
    message,
  });
}

/** Where a lot's devices are. They always add up: each is in one place. */
export interface LotPlaces {
  /** with the builder, for another party to certify */
  readonly atBuilder: number;
  readonly onTheWay: number;
  /** released, and not arrived */
  readonly missing: number;
  /** with the issuer, without a certificate */
  readonly uncertified: number;
}

export function placesOf(lot: LotState, devices: readonly DeviceState[]): LotPlaces {
  const places = { atBuilder: 0, onTheWay: 0, missing: 0, uncertified: 0 };
  const { builder, issuer } = lot.terms;
  for (const { holder, certificateAct, missing } of devices) {
    if (certificateAct !== undefined) continue;
    if (missing === true) places.missing++;
    else if (holder === undefined) places.onTheWay++;
    else if (holder === builder && builder !== issuer) places.atBuilder++;
    else places.uncertified++;
  }
  return places;
}

function reportLot(lot: LotState, devices: readonly DeviceState[], state: AuditState): void {
  const { builder, issuer } = lot.terms;
  const open = (party: string, message: string): void =>
    state.findings.add({ severity: "open", code: "lot-open", party, subject: lot.id, message });
  const { atBuilder, uncertified } = placesOf(lot, devices);
  const built = lot.built.size;
  if (atBuilder > 0) open(builder, `${atBuilder} of ${built} devices built are still with ${builder}`);
  if (uncertified > 0) open(issuer, `${uncertified} of ${built} devices are with ${issuer} and have no certificate`);
  const highest = [...lot.built.keys()].reduce((a, b) => Math.max(a, b), 0);
  if (highest === built) return;
  // Slots are taken one after the other, each with its record: one that was passed over had a record.
  const skipped: string[] = [];
  for (let slot = 1; slot < highest; slot++) if (!lot.built.has(slot)) skipped.push(String(slot));
  state.findings.add({
    severity: "error",
    code: "slot-gap",
    party: builder,
    subject: lot.id,
    message: `slots were taken up to ${highest}, and nothing says what became of ${skipped.length} of them: ${some(skipped)}`,
  });
}

function some(names: readonly string[]): string {
  const more = names.length - NAMED;
  return names.slice(0, NAMED).join(", ") + (more > 0 ? ` and ${more} more` : "");
}
