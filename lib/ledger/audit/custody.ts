import { fromBase64, fromUtf8, toHex } from "../../domain/bytes.ts";
import type { Sha256 } from "../../domain/hash.ts";
import { z } from "zod";
import type { PrevRef } from "../../records/primitives.ts";
import { handoffItem, isKeptOut, type HandoffItem } from "../../records/manifest.ts";
import { HASH_SIZE, leafHash, rootOf } from "../tree.ts";
import type { DeviceState } from "./devices.ts";
import { NumberSet } from "./packed/number-set.ts";
import { demandFault, readLotSettings } from "./lot-settings.ts";
import { isTakenBack } from "./revocation.ts";
import {
  NO_DEVICE,
  refKey,
  wrong,
  type AuditState,
  type ListedDevices,
  type LotState,
  type PartyState,
  type Placed,
} from "./state.ts";

/** Lots, devices, and whose hands they are in. */

export async function onLotOpened(at: Placed<"lot-opened">, party: PartyState, state: AuditState): Promise<void> {
  const terms = at.act.fields;
  if (terms.builder !== party.id && terms.issuer !== party.id) {
    return wrong(state, at, "lot-invalid", "a party opens a lot that it neither builds nor issues", terms.lot);
  }
  const unbuildable = terms.builder === party.id ? buildingFault(at, party, state) : undefined;
  if (unbuildable !== undefined) wrong(state, at, "grant-exceeded", unbuildable, terms.lot);
  const settings = await readLotSettings(at, party, state);
  const misdemand = demandFault(terms, settings, state);
  if (misdemand !== undefined) wrong(state, at, "lot-invalid", misdemand, terms.lot);
  const known = state.lots.get(terms.lot);
  if (known) {
    if (known.openedBy.has(party.id)) return wrong(state, at, "lot-invalid", "the lot was opened twice", terms.lot);
    const same = ["slots", "builder", "issuer", "profile", "layouts", "attestation"] as const;
    if (
      known.settings.sha256 !== settings.sha256 ||
      same.some((field) => JSON.stringify(known.terms[field]) !== JSON.stringify(terms[field]))
    ) {
      return wrong(state, at, "lot-invalid", "the lot's terms differ between the parties", terms.lot);
    }
    known.openedBy.add(party.id);
    return;
  }
  state.lots.set(terms.lot, {
    id: terms.lot,
    terms,
    openedBy: new Set([party.id]),
    settings,
    built: new NumberSet(),
    certified: new NumberSet(),
    injected: 0,
    installed: 0,
  });
}

/** Only who may build can say that there is a device: else a certifying party could certify what nobody handed over. */
function buildingFault(at: Placed<"lot-opened">, party: PartyState, state: AuditState): string | undefined {
  if (party.id === state.rootParty) return undefined;
  if (!party.grant) return "a party without a grant builds";
  const { mayBuild, notBefore, notAfter } = party.grant.fields;
  if (!mayBuild) return "the party's grant doesn't allow it to build";
  if (at.act.time < notBefore || at.act.time > notAfter) return "it was opened outside the grant's window";
  return undefined;
}

/** The lot an act belongs to, opened by the acting party before. */
export function openLot(at: Placed, lot: string, party: PartyState, state: AuditState): LotState | undefined {
  const found = state.lots.get(lot);
  if (found?.openedBy.has(party.id)) return found;
  wrong(state, at, "lot-invalid", `lot ${lot} was not opened by ${party.id}`, lot);
  return undefined;
}

export function onBuilt(at: Placed<"built">, party: PartyState, state: AuditState): void {
  const { lot: lotId, slot, spki, csrSha256 } = at.act.fields;
  const subject = at.act.subject[0]!;
  const lot = openLot(at, lotId, party, state);
  if (!lot) return;
  if (lot.terms.builder !== party.id)
    return wrong(state, at, "lot-invalid", `${party.id} doesn't build this lot`, subject.name);
  const spkiSha256 = toHex(state.sha256(fromBase64(spki)));
  if (spkiSha256 !== subject.digest.sha256)
    return wrong(state, at, "device-invalid", "its key isn't the subject's", subject.name);
  if (slot > lot.terms.slots)
    return wrong(state, at, "lot-invalid", `slot ${slot} is beyond the lot's ${lot.terms.slots}`, subject.name);
  if (lot.built.has(slot)) return wrong(state, at, "slot-reused", `slot ${slot} was built before`, subject.name);
  if (state.devices.has(subject.name))
    return wrong(state, at, "device-invalid", "the device was built before", subject.name);
  if (state.devices.hasKey(spkiSha256))
    return wrong(state, at, "device-invalid", "another device has this key", subject.name);
  if (state.devices.hasRequest(csrSha256))
    return wrong(state, at, "device-invalid", "another device has this request", subject.name);
  lot.built.add(slot);
  const last = rowOf(at, party, state);
  state.devices.add({ id: subject.name, lot: lotId, slot, spkiSha256, csrSha256, holder: party.id, last });
}

const listLine = z.tuple([z.literal("handoff"), z.string(), z.string(), z.string(), z.int(), z.string()]);

/** A handoff's list as it lies beside the ledger, one canonical JSON array a line, and one line in memory. */
function* listItems(bytes: Uint8Array): Generator<HandoffItem, void, undefined> {
  for (let at = 0; at < bytes.length;) {
    const newline = bytes.indexOf(10, at);
    const end = newline < 0 ? bytes.length : newline;
    const [, deviceId, spkiSha256, csrSha256, slot, prev] = listLine.parse(
      JSON.parse(fromUtf8(bytes.subarray(at, end))),
    );
    yield { deviceId, spkiSha256, csrSha256, slot, prev };
    at = end + 1;
  }
}

/** The leaf hashes of a list's tree, also one behind the other, if it has `count` items. Throws for what isn't a list. */
function listLeaves(
  bytes: Uint8Array,
  count: number,
  sha256: Sha256,
): { leaves: readonly Uint8Array[]; packed: Uint8Array } | undefined {
  // No item is shorter than a digest: a count is its party's word.
  if (count * HASH_SIZE > bytes.length) return undefined;
  const leaves: Uint8Array[] = [];
  const packed = new Uint8Array(count * HASH_SIZE);
  for (const item of listItems(bytes)) {
    const at = leaves.length * HASH_SIZE;
    if (leaves.length === count) return undefined;
    packed.set(leafHash(handoffItem(item), sha256), at);
    leaves.push(packed.subarray(at, at + HASH_SIZE));
  }
  return leaves.length === count ? { leaves, packed } : undefined;
}

export async function onReleased(at: Placed<"handoff-released">, party: PartyState, state: AuditState): Promise<void> {
  const { id, from, lot, count, listRoot } = at.act.fields;
  if (from !== party.id) return wrong(state, at, "handoff-invalid", `it releases what ${from} has`, id);
  if (!openLot(at, lot, party, state)) return;
  if (state.handoffs.has(id)) return wrong(state, at, "handoff-invalid", "the handoff was released before", id);
  const [blob, second] = at.act.blobs.filter((b) => b.name === "list");
  if (second) return wrong(state, at, "handoff-invalid", "it names two lists", id);
  const bytes = blob && (await state.blob(party.id, blob.sha256));
  if (!bytes) return wrong(state, at, "handoff-invalid", "its list doesn't lie beside the ledger", id);
  let listed: ReturnType<typeof listLeaves>;
  try {
    listed = listLeaves(bytes, count, state.sha256);
  } catch {
    return wrong(state, at, "handoff-invalid", "its list can't be read", id);
  }
  if (listed === undefined || toHex(rootOf(listed.leaves, state.sha256)) !== listRoot) {
    return wrong(state, at, "handoff-invalid", "the list beside the ledger is not the one that was signed", id);
  }
  const rows = new Uint32Array(count).fill(NO_DEVICE);
  addHandoff(state, at, { rows, leafHashes: listed.packed });
  let place = -1;
  for (const item of listItems(bytes)) {
    place++;
    const device = state.devices.get(item.deviceId);
    if (device) rows[place] = device.row;
    if (!device || device.holder !== party.id || device.lot !== lot) {
      wrong(state, at, "custody-broken", `${party.id} releases a device it doesn't hold`, item.deviceId);
      continue;
    }
    if (device.spkiSha256 !== item.spkiSha256 || device.csrSha256 !== item.csrSha256 || device.slot !== item.slot) {
      wrong(
        state,
        at,
        "handoff-invalid",
        "the list describes the device otherwise than its built record",
        item.deviceId,
      );
    }
    if (state.seen.leafHash(device.last) !== item.prev) {
      wrong(state, at, "custody-broken", "the list doesn't continue the device's last act", item.deviceId);
    }
    device.holder = undefined;
  }
}

export function onReceived(at: Placed<"handoff-received">, party: PartyState, state: AuditState): void {
  const received = at.act.fields;
  const handoff = state.handoffs.get(received.id);
  if (!handoff) return wrong(state, at, "handoff-invalid", "nothing was released under this id", received.id);
  const released = handoff.released;
  const releasedRef = { origin: released.act.origin, leafHash: released.leafHash };
  if (refKey(received.counterpart) !== refKey(releasedRef)) {
    return wrong(state, at, "handoff-invalid", "its counterpart is not the release", received.id);
  }
  if (received.to !== party.id || released.act.fields.to !== party.id) {
    return wrong(
      state,
      at,
      "custody-broken",
      `${party.id} receives what was released to ${released.act.fields.to}`,
      received.id,
    );
  }
  const same = ["lot", "from", "count", "listRoot"] as const;
  if (same.some((field) => received[field] !== released.act.fields[field])) {
    return wrong(state, at, "handoff-invalid", "the receipt and the release differ", received.id);
  }
  if (handoff.received) return wrong(state, at, "custody-broken", "the handoff was received before", received.id);
  if (!openLot(at, received.lot, party, state)) return;
  handoff.received = true;
  const missing: string[] = [];
  handoff.receipt = { index: at.index, missing };
  const last = rowOf(at, party, state);
  for (const [place, row] of handoff.items.rows.entries()) {
    if (row === NO_DEVICE) continue;
    const device = state.devices.at(row);
    // What the taker signed as not arrived is in nobody's hands: it can't be certified and denied at once.
    if (isKeptOut(device.id, received.discrepancies)) {
      missing.push(device.id);
      device.setMissing();
      continue;
    }
    device.holder = party.id;
    device.last = last;
    device.list = { handoff: handoff.number, place };
  }
}

/** The device an act is about: known, in this lot and slot, in the party's hands, and the act continues its last one. */
export function heldDevice(
  at: Placed<"attested" | "certified" | "injected" | "installed">,
  party: PartyState,
  state: AuditState,
): DeviceState | undefined {
  const { lot, slot } = at.act.fields;
  const subject = at.act.subject[0]!;
  const device = state.devices.get(subject.name);
  if (!device || device.lot !== lot || device.slot !== slot) {
    wrong(state, at, "device-invalid", "no device was built in this slot of the lot under this name", subject.name);
    return undefined;
  }
  if (device.spkiSha256 !== subject.digest.sha256) {
    wrong(state, at, "device-invalid", "it is about another key than the device's", subject.name);
    return undefined;
  }
  if (device.holder !== party.id) {
    const whose = device.holder === undefined ? "on its way" : `in the hands of ${device.holder}`;
    wrong(state, at, "custody-broken", `the device is ${whose}`, subject.name);
    return undefined;
  }
  if (isTakenBack(device.certificateAct, party, state)) {
    wrong(state, at, "revoked", "the device's certificate was revoked or held before", subject.name);
  }
  const gap = continuityGap(at.act.prev, device, state);
  if (gap) wrong(state, at, "custody-broken", gap, subject.name);
  device.last = rowOf(at, party, state);
  device.list = undefined;
  return device;
}

function continuityGap(prev: readonly PrevRef[], device: DeviceState, state: AuditState): string | undefined {
  const link = prev.find((ref) => state.seen.find(ref) === device.last);
  if (!link) return "it doesn't name the device's previous act";
  const { list } = device;
  if (!list) return undefined;
  if (link.listIndex === undefined || link.path === undefined)
    return "it doesn't show the device in the previous act's list";
  const { items, released } = state.handoffList[list.handoff]!;
  const { count: size, listRoot: root } = released.act.fields;
  const hash = items.leafHashes.subarray(list.place * HASH_SIZE, (list.place + 1) * HASH_SIZE);
  return state.trees.holds({ leafHash: hash, index: link.listIndex, size, path: link.path, root })
    ? undefined
    : "its path doesn't lead to the previous act's list";
}

/** Where the act itself stands among those that were seen. */
function rowOf(at: Placed, party: PartyState, state: AuditState): number {
  return state.seen.find({ origin: party.log.name, leafHash: at.leafHash });
}

export function addHandoff(state: AuditState, released: Placed<"handoff-released">, items: ListedDevices): void {
  const { id } = released.act.fields;
  const handoff = { id, number: state.handoffList.length, released, items, received: false };
  state.handoffs.set(id, handoff);
  state.handoffList.push(handoff);
}
