import { fromBase64, toHex } from "../../domain/bytes.ts";
import { isCountersignError } from "../../domain/errors.ts";
import { canonicalJson } from "../../domain/json.ts";
import { parseCertificate, type Certificate } from "../../pki/certificate.ts";
import { validatePath } from "../../pki/path.ts";
import { grantedKey } from "../../records/grant.ts";
import { csrItem, installItem } from "../../records/manifest.ts";
import { deviceProfileFault } from "./device-profile.ts";
import { leafHash } from "../tree.ts";
import { heldDevice, openLot } from "./custody.ts";
import { checkIntake } from "./intake.ts";
import { settingsFault } from "./lot-settings.ts";
import { intentKeyFault } from "./rotation.ts";
import {
  refKey,
  wrong,
  type AuditState,
  type GrantState,
  type LotState,
  type PartyState,
  type Placed,
} from "./state.ts";

/** What is signed for a device, under which grant, and what became of it. */

export function onIntent(at: Placed<"intent">, party: PartyState, state: AuditState): void {
  const { lot, tbsRoot, count, manifest } = at.act.fields;
  if (!openLot(at, lot, party, state)) return;
  const grant = at.act.grant && state.grants.get(refKey(at.act.grant));
  const fault = intentKeyFault(grant, party);
  if (fault !== undefined) wrong(state, at, "rotation-invalid", fault, lot);
  party.lastIntent = at.index;
  const ca = grant && grantedKey(grant.fields);
  const intent = { index: at.index, root: tbsRoot, count, lot, manifest, ca, certified: 0 };
  state.intents.set(state.seen.find({ origin: party.log.name, leafHash: at.leafHash }), intent);
}

export async function onCertified(at: Placed<"certified">, party: PartyState, state: AuditState): Promise<void> {
  const { lot: lotId, slot, profile } = at.act.fields;
  const name = at.act.subject[0]!.name;
  const lot = openLot(at, lotId, party, state);
  if (!lot) return;
  if (lot.terms.issuer !== party.id)
    return wrong(state, at, "lot-invalid", `${party.id} doesn't issue for this lot`, name);
  if (lot.certified.has(slot)) return wrong(state, at, "slot-reused", `slot ${slot} already has a certificate`, name);
  lot.certified.add(slot);
  party.certified++;
  noteTime(at, party);
  const issuers = checkGrant(at, party, state, name)?.chain ?? party.chain;
  if (at.act.fields.purpose !== "initial" || at.act.fields.renews)
    wrong(state, at, "certificate-invalid", "it renews a certificate that nothing shows", name);
  if (profile.sha256 !== lot.terms.profile.sha256)
    wrong(state, at, "certificate-invalid", "the profile is not the lot's", name);
  const device = heldDevice(at, party, state);
  const certificate = await checkCertificate(at, lot, issuers, party, state);
  if (!device || !certificate) return;
  if (lot.terms.attestation !== undefined && !device.attested)
    wrong(state, at, "attestation-missing", "the lot asks for an attestation, and the device has none", name);
  if (toHex(state.sha256(certificate.spki)) !== device.spkiSha256) {
    return wrong(state, at, "certificate-invalid", "the certificate holds another key than the device's", name);
  }
  checkIntent(at, party, state, certificate, name);
  await checkIntake(at, "certify", csrItem(device.csrSha256), device.csrSha256, party, state);
  const act = state.seen.find({ origin: party.log.name, leafHash: at.leafHash });
  const serial = state.serials.find(serialKey(party, certificate));
  device.setCertificate({ issuer: party.id, act, serial, certificate, chain: issuers }, state.sha256);
}

function noteTime({ act, index }: Placed<"certified">, party: PartyState): void {
  const time = Date.parse(act.time);
  if (party.lastCertified === undefined || time > party.lastCertified.time) party.lastCertified = { index, time };
}

function checkGrant(
  at: Placed<"certified">,
  party: PartyState,
  state: AuditState,
  name: string,
): GrantState | undefined {
  const grant = at.act.grant && state.grants.get(refKey(at.act.grant));
  if (!grant || grant.fields.child !== party.id) {
    wrong(state, at, "grant-missing", "it doesn't name a grant to this party", name);
    return undefined;
  }
  if (!grant.accepted) wrong(state, at, "not-accepted", "the grant was not accepted before it was used", name);
  const { fields } = grant;
  if (!fields.idPrefixes.some((prefix) => name.startsWith(prefix))) {
    wrong(state, at, "grant-exceeded", "the device ID lies outside the grant's namespace", name);
  }
  if (!fields.profiles.some((p) => p.sha256 === at.act.fields.profile.sha256)) {
    wrong(state, at, "grant-exceeded", `the grant doesn't allow profile ${at.act.fields.profile.name}`, name);
  }
  if (at.act.time < fields.notBefore || at.act.time > fields.notAfter) {
    wrong(state, at, "grant-exceeded", "it was certified outside the grant's window", name);
  }
  if (party.certified + party.delegated > fields.quota) {
    wrong(state, at, "quota-exceeded", `it is number ${party.certified} under a quota of ${fields.quota}`, name);
  }
  return grant;
}

const serialKey = (party: PartyState, { serial }: Certificate): string => `${party.id}#${serial}`;

async function checkCertificate(
  at: Placed<"certified">,
  { settings }: LotState,
  issuers: readonly Certificate[],
  party: PartyState,
  state: AuditState,
): Promise<Certificate | undefined> {
  const name = at.act.subject[0]!.name;
  let certificate: Certificate;
  try {
    certificate = parseCertificate(fromBase64(at.act.fields.certificate));
  } catch (error) {
    if (!isCountersignError(error)) throw error;
    wrong(state, at, "certificate-invalid", error.message, name);
    return undefined;
  }
  const chain = [certificate, ...issuers].map((c) => c.der);
  const path = await validatePath({ chain, roots: [state.root.der], at: new Date(at.act.time), verify: state.verify });
  if (!path.ok) wrong(state, at, "certificate-invalid", `the chain doesn't verify: ${path.message}`, name);
  if (certificate.subject.cn !== name) {
    wrong(state, at, "certificate-invalid", `it names ${String(certificate.subject.cn)}`, name);
  }
  const issuer = issuers[0];
  const { profile } = at.act.fields;
  const fault =
    issuer &&
    (deviceProfileFault(certificate, profile, issuer) ??
      (settings.settings && settingsFault(certificate, profile.name, issuer, settings.settings)));
  if (fault !== undefined) wrong(state, at, "certificate-invalid", fault, name);
  const serial = serialKey(party, certificate);
  if (state.serials.has(serial)) wrong(state, at, "certificate-invalid", "the serial number was used before", name);
  state.serials.add(serial);
  return path.ok ? certificate : undefined;
}

function checkIntent(
  at: Placed<"certified">,
  party: PartyState,
  state: AuditState,
  certificate: Certificate,
  name: string,
): void {
  const { leafHash: named, index, path } = at.act.fields.intent;
  const intent = state.intents.get(state.seen.find({ origin: party.log.name, leafHash: named }));
  if (!intent || intent.lot !== at.act.fields.lot) {
    return wrong(state, at, "intent-missing", "no intent of this lot was logged before it", name);
  }
  const grant = at.act.grant && state.grants.get(refKey(at.act.grant));
  if (intent.ca !== (grant && grantedKey(grant.fields))) {
    wrong(state, at, "rotation-invalid", "it is under another CA key than its intent", name);
  }
  const { intake } = at.act.fields;
  if (intake.kind === "manifest" && intake.digest !== intent.manifest) {
    wrong(state, at, "intent-missing", "the intent was for another batch", name);
  }
  const leaf = leafHash(state.sha256(certificate.tbs), state.sha256);
  if (!state.trees.holds({ leafHash: leaf, index, size: intent.count, path, root: intent.root })) {
    return wrong(state, at, "intent-missing", "the bytes that were signed are not among those intended", name);
  }
  intent.certified++;
}

export function onInjected(at: Placed<"injected">, party: PartyState, state: AuditState): void {
  const { receipt, readBack, chains, layoutSha256, lot: lotId } = at.act.fields;
  const name = at.act.subject[0]!.name;
  const device = heldDevice(at, party, state);
  if (!device) return;
  const expected = device.chainSha256(receipt.chain.encoding);
  if (expected === undefined)
    return wrong(state, at, "injection-invalid", "a chain was injected before it was certified", name);
  if (receipt.deviceId !== name || receipt.lot !== device.lot || receipt.slot !== device.slot) {
    wrong(state, at, "injection-invalid", "the receipt is about another device", name);
  }
  const lot = state.lots.get(lotId);
  if (!lot) return;
  if (device.injected) wrong(state, at, "injection-invalid", "a chain was injected before", name);
  const layout = lot.terms.layouts[(device.slot - 1) % lot.terms.layouts.length]!;
  if (
    layoutSha256 !== layout.sha256 ||
    receipt.format !== layout.format ||
    receipt.original.sha256 !== layout.template.sha256
  ) {
    wrong(state, at, "injection-invalid", "the firmware is not the one that the lot's terms name for the slot", name);
  }
  if (receipt.chain.sha256 !== expected || readBack.sha256 !== expected) {
    wrong(state, at, "injection-invalid", "the chain in the image is not the device's", name);
  }
  const issued = state.parties.get(device.issuer!)!.chain.length;
  if (chains.length !== 1 || chains[0]!.sha256 !== expected || chains[0]!.certificates !== issued) {
    wrong(state, at, "injection-invalid", "the chains it names are not those of the image", name);
  }
  lot.injected++;
  device.setInjected(toHex(state.sha256(canonicalJson(receipt))));
}

export async function onInstalled(at: Placed<"installed">, party: PartyState, state: AuditState): Promise<void> {
  const name = at.act.subject[0]!.name;
  const device = heldDevice(at, party, state);
  if (!device) return;
  if (!device.certified)
    return wrong(state, at, "custody-broken", "the device was installed without a certificate", name);
  if (device.installed) return wrong(state, at, "custody-broken", "the device was installed before", name);
  const { place, time, lot: lotId } = at.act.fields;
  await checkIntake(at, "install", installItem(name, place, time), undefined, party, state);
  const lot = state.lots.get(lotId);
  if (lot) lot.installed++;
  device.setInstalled();
}

export function onHubRegistered(at: Placed<"hub-registered">, state: AuditState): void {
  const known = [state.root, ...[...state.parties.values()].flatMap((p) => p.chain)];
  if (!known.some((c) => toHex(state.sha256(c.der)) === at.act.fields.caSha256)) {
    wrong(state, at, "hub-invalid", "the CA registered with the hub belongs to no party", at.act.fields.hub);
  }
  state.hubs.push(at.act.fields);
}
