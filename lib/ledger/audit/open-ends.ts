import { reportRevokedCas } from "./revocation.ts";
import type { AuditState, HandoffState, LotState } from "./state.ts";

/** Names in one message; the rest is counted. */
const NAMED = 5;

/** What is left when every act has been looked at: nothing of it is wrong by itself, but a gap in a lot's slots. */
export function reportOpenEnds(state: AuditState, places: ReadonlyMap<string, LotPlaces>): void {
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
  for (const [act, intent] of state.intents) {
    const left = intent.count - intent.certified;
    if (left <= 0) continue;
    state.findings.add({
      severity: "open",
      code: "intent-open",
      party: state.byOrigin.get(state.seen.origin(act))?.id ?? "-",
      index: intent.index,
      subject: intent.lot,
      message: `${left} of ${intent.count} certificates that were about to be signed are in no ledger`,
    });
  }
  reportRevokedCas(state);
  for (const lot of state.lots.values()) reportLot(lot, places.get(lot.id)!, state);
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

/** Of every lot, by its id. */
export function placesOf(state: AuditState): Map<string, LotPlaces> {
  const places = new Map(
    [...state.lots.keys()].map((lot) => [lot, { atBuilder: 0, onTheWay: 0, missing: 0, uncertified: 0 }]),
  );
  for (const { lot, holder, certified, missing } of state.devices.values()) {
    if (certified) continue;
    const of = places.get(lot)!;
    const { builder, issuer } = state.lots.get(lot)!.terms;
    if (missing) of.missing++;
    else if (holder === undefined) of.onTheWay++;
    else if (holder === builder && builder !== issuer) of.atBuilder++;
    else of.uncertified++;
  }
  return places;
}

function reportLot(lot: LotState, places: LotPlaces, state: AuditState): void {
  const { builder, issuer } = lot.terms;
  const open = (party: string, message: string): void =>
    state.findings.add({ severity: "open", code: "lot-open", party, subject: lot.id, message });
  const { atBuilder, uncertified } = places;
  const built = lot.built.size;
  if (atBuilder > 0) open(builder, `${atBuilder} of ${built} devices built are still with ${builder}`);
  if (uncertified > 0) open(issuer, `${uncertified} of ${built} devices are with ${issuer} and have no certificate`);
  const { highest } = lot.built;
  if (highest === built) return;
  // Slots are taken one after the other, each with its record: one that was passed over had a record.
  const skipped: string[] = [];
  for (let slot = 1; skipped.length < NAMED && slot < highest; slot++) {
    if (!lot.built.has(slot)) skipped.push(String(slot));
  }
  state.findings.add({
    severity: "error",
    code: "slot-gap",
    party: builder,
    subject: lot.id,
    message: `slots were taken up to ${highest}, and nothing says what became of ${highest - built} of them: ${some(skipped, highest - built)}`,
  });
}

function some(names: readonly string[], all = names.length): string {
  const more = all - NAMED;
  return names.slice(0, NAMED).join(", ") + (more > 0 ? ` and ${more} more` : "");
}
