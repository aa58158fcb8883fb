/** Verifies a device's passport: needs the root and the policy, and believes nothing else. */
import { equalBytes, fromBase64, fromHex, toHex, utf8 } from "../domain/bytes.ts";
import { isCountersignError } from "../domain/errors.ts";
import { sha256, sha256Hex } from "../domain/hash.ts";
import { canonicalJson } from "../domain/json.ts";
import type { VerifySignature } from "../domain/signing.ts";
import type { Certificate } from "../pki/certificate.ts";
import type { ActType } from "../records/acts.ts";
import { commitment, handoffItem, type HandoffItem } from "../records/manifest.ts";
import type { Opening } from "../records/opening.ts";
import type { Policy } from "../records/policy.ts";
import { parseEntry, type ParsedEntry } from "../records/statement.ts";
import { beginAudit, partyPolicies } from "./audit/begin.ts";
import { antecedents } from "./audit/causal-order.ts";
import { addHandoff, openLot } from "./audit/custody.ts";
import type { DeviceState } from "./audit/devices.ts";
import { takeIn } from "./audit/dispatch.ts";
import { Findings } from "./audit/finding.ts";
import { formFault } from "./audit/form.ts";
import { checkManifestSigner } from "./audit/intake.ts";
import { standingRevocations } from "./audit/revocation.ts";
import { refKey, wrong, type AuditState, type PartyState, type Placed } from "./audit/state.ts";
import { checkSignature } from "./audit/trust.ts";
import type { SignedCheckpoint } from "./checkpoint.ts";
import { purposeOf, type PassportEvidence } from "./passport-evidence.ts";
import { parsePassport } from "./passport-unpack.ts";
import { openUnderPolicy, type TlogPolicy } from "./policy.ts";
import { ProofReader } from "./proof-nodes.ts";
import { leafHash } from "./tree.ts";

/** What a device's history is made of. Any other act would travel in its passport unread. */
const TYPES: ReadonlySet<ActType> = new Set([
  ...(["keyset", "ceremony", "delegation", "acceptance", "rotated", "lot-opened", "intent"] as const),
  ...([
    "built",
    "handoff-released",
    "handoff-received",
    "attested",
    "certified",
    "injected",
    "installed",
    "revoked",
  ] as const),
]);

/** One act of the device's history, as proven. `time` is what the party's clock claimed. */
export interface PassportAct {
  readonly party: string;
  readonly origin: string;
  readonly index: number;
  readonly type: ActType;
  readonly time: string;
}

/** One ledger's part, and between which times its newest act was logged, as witnesses' clocks bound it (RFC 3339). */
export interface PassportLog {
  readonly party: string;
  readonly origin: string;
  /** of the checkpoint that every act is proven against */
  readonly size: number;
  /** the earliest cosignature on the last checkpoint that doesn't hold the newest act */
  readonly after?: string;
  /** the latest cosignature on the checkpoint that does */
  readonly before?: string;
}

export type PassportVerdict =
  | {
      readonly ok: true;
      readonly deviceId: string;
      readonly spkiSha256: string;
      /** the party that has the device, if it isn't on its way */
      readonly holder: string | null;
      readonly issuer: string;
      readonly injected: boolean;
      readonly installed: boolean;
      readonly acts: number;
      readonly logs: number;
      readonly ledgers: readonly PassportLog[];
      /** what was shown, and is what the acts commit to */
      readonly openings: readonly Pick<Opening, "domain" | "value">[];
      readonly history: readonly PassportAct[];
    }
  | {
      readonly ok: false;
      /** the first thing that fails */
      readonly code: string;
      readonly message: string;
      /** and where, if it is an act */
      readonly at?: { readonly origin: string; readonly index: number };
    };

/** Evidence that doesn't hold. Caught in this file, never seen outside. */
class Refusal extends Error {
  readonly code: string;
  readonly at: { origin: string; index: number } | undefined;
  constructor(code: string, message: string, at?: { origin: string; index: number }) {
    super(message);
    this.code = code;
    this.at = at;
  }
}

/**
 * Says yes, or the first thing that fails and where. Checked: every log's checkpoint under the policy's keys and quorum;
 * every act's inclusion, form and signature; that no act is missing that another names; the parties' keysets and grants
 * from the root's ceremony down; the device's build, handoffs, intent, certificate, injection and installation, each by
 * the party that had the device and each continuing the one before; the chains; and every opening shown.
 *
 * A passport that holds a revocation (of the device's certificate, or of a CA above it) which wasn't lifted is refused as
 * `revoked`. It proves history up to its checkpoints, not that nothing happened later, nor that its holder left no
 * revocation out: that has to be looked up in the CRLs.
 * @param shown values that its holder shows beside the passport
 * @throws CountersignError `policy-invalid`; whatever is wrong with the passport is a verdict
 */
export async function verifyPassport(
  bytes: Uint8Array,
  root: Certificate,
  policy: Policy,
  verify: VerifySignature,
  shown: readonly Opening[] = [],
): Promise<PassportVerdict> {
  const policies = partyPolicies(policy);
  try {
    if (sha256Hex(root.der) !== policy.rootSha256) {
      throw new Refusal("root-mismatch", "the policy pins another root than the one given");
    }
    const passport = parsePassport(bytes, root.der);
    if (passport.policySha256 !== policyDigest(policy)) {
      throw new Refusal("policy-mismatch", "the passport was made under another policy");
    }
    return await check({ ...passport, openings: [...passport.openings, ...shown] }, root, policies, verify);
  } catch (error) {
    if (error instanceof Refusal) {
      const { code, message, at } = error;
      return at === undefined ? { ok: false, code, message } : { ok: false, code, message, at };
    }
    if (isCountersignError(error) && error.kind !== "internal" && error.kind !== "unavailable") {
      return { ok: false, code: error.code, message: error.message };
    }
    throw error;
  }
}

/** SHA-256 of the policy's canonical JSON, hex. */
export function policyDigest(policy: Policy): string {
  return sha256Hex(canonicalJson(policy));
}

async function check(
  passport: PassportEvidence,
  root: Certificate,
  policies: ReadonlyMap<string, TlogPolicy>,
  verify: VerifySignature,
): Promise<PassportVerdict> {
  const findings = new Findings();
  const state = newState(passport, root, policies, findings, verify);
  const checkpoints = await openCheckpoints(passport, state, policies);
  const history: PassportAct[] = [];
  const last = new Map<string, number>();
  let certified: Certified | undefined;
  const committed = new Set<string>();
  const batches = new Set<string>();

  for (const [i, { origin, index, entry, path }] of passport.acts.entries()) {
    const where = { origin, index };
    const checkpoint = checkpoints.get(origin);
    const party = state.byOrigin.get(origin);
    if (checkpoint === undefined || party === undefined) {
      throw new Refusal("log-missing", `act ${i} is in ${origin}, for which the passport has no checkpoint`, where);
    }
    // A ledger's own order is what says that a grant was accepted before it was used.
    if (index <= (last.get(origin) ?? -1)) {
      throw new Refusal("act-repeated", `act ${i} is not after the one before it in ${origin}`, where);
    }
    last.set(origin, index);
    const hash = leafHash(entry);
    const { size } = checkpoint.newest;
    if (!checkpoint.proofs.verify(hash, index, path)) {
      throw new Refusal("proof-invalid", `act ${i} is not entry ${index} of ${origin} at size ${size}`, where);
    }
    let parsed: ParsedEntry;
    try {
      parsed = parseEntry(entry);
    } catch (error) {
      if (!isCountersignError(error)) throw error;
      throw new Refusal(error.code, error.message, where);
    }
    if (!TYPES.has(parsed.act.type)) {
      throw new Refusal("act-invalid", `an act of type ${parsed.act.type} has no place in a passport`, where);
    }
    await apply({ party: party.id, index, leafHash: toHex(hash), act: parsed.act }, parsed, party, passport, state);
    const finding = findings.list[0];
    if (finding !== undefined) throw new Refusal(finding.code, `${finding.party}: ${finding.message}`, where);
    const { act } = parsed;
    if (act.type === "certified") {
      const { certificate, profile } = act.fields;
      const { chain } = (act.grant && state.grants.get(refKey(act.grant))) ?? party;
      certified = { by: party, der: fromBase64(certificate), chain, purpose: purposeOf(profile.name) };
    }
    if (act.type === "installed") committed.add(act.fields.place).add(act.fields.time);
    if ("intake" in act.fields && act.fields.intake.kind === "manifest") batches.add(act.fields.intake.digest);
    history.push({ party: party.id, origin, index, type: parsed.act.type, time: parsed.act.time });
  }

  const device = state.devices.get(passport.device.id);
  if (device === undefined) throw new Refusal("device-invalid", `no act built the device ${passport.device.id}`);
  if (state.devices.size > 1) throw new Refusal("device-invalid", "it holds acts of other devices too");
  if (device.spkiSha256 !== passport.device.spkiSha256) {
    throw new Refusal("device-invalid", "the device's key is not the one that was built");
  }
  const open = [...state.grants.values()].find((grant) => !grant.accepted);
  if (open !== undefined) {
    throw new Refusal("not-accepted", `nothing shows that ${open.fields.child} accepted its grant from ${open.by}`);
  }
  const [revoked] = standingRevocations(state);
  if (revoked !== undefined) {
    const { party, target, subject, effect, reason, time } = revoked;
    const what = `the certificate of the ${target === "ca" ? "CA of " : "device "}${subject}`;
    const how = effect === "hold" ? "holds" : "revoked";
    const { log } = state.parties.get(party)!;
    const where = { origin: log.name, index: revoked.index };
    throw new Refusal("revoked", `${party} ${how} ${what} (${reason}, ${new Date(time).toISOString()})`, where);
  }
  const issuer = checkChains(passport, device, certified);
  // Everything in a passport has a part in its proof: what has none would be taken for proven.
  if (batches.size < passport.manifests.length) {
    throw new Refusal("intake-invalid", "it holds a signed batch that none of its acts names");
  }
  checkOpenings(passport, committed);
  return {
    ok: true,
    deviceId: device.id,
    spkiSha256: device.spkiSha256,
    holder: device.holder ?? null,
    issuer,
    injected: device.injected,
    installed: device.installed,
    acts: passport.acts.length,
    logs: checkpoints.size,
    openings: passport.openings.map(({ domain, value }) => ({ domain, value })),
    ledgers: [...checkpoints.values()].map((log) => ledgerOf(log, state)),
    history,
  };
}

function newState(
  passport: PassportEvidence,
  root: Certificate,
  policies: ReadonlyMap<string, TlogPolicy>,
  findings: Findings,
  verify: VerifySignature,
): AuditState {
  const manifests = new Map<string, Uint8Array>();
  for (const dsse of passport.manifests) manifests.set(sha256Hex(dsse), dsse);
  if (manifests.size < passport.manifests.length) {
    throw new Refusal("intake-invalid", "it holds one signed batch twice");
  }
  return beginAudit(
    { root, verify, sha256, findings, everyBlob: false, blob: async (_party, digest) => manifests.get(digest) },
    policies,
  );
}

interface OpenedLog {
  readonly newest: SignedCheckpoint;
  readonly older?: SignedCheckpoint;
  readonly proofs: ProofReader;
}

async function openCheckpoints(
  passport: PassportEvidence,
  state: AuditState,
  policies: ReadonlyMap<string, TlogPolicy>,
): Promise<Map<string, OpenedLog>> {
  const opened = new Map<string, OpenedLog>();
  for (const { origin, checkpoint, before } of passport.logs) {
    const party = state.byOrigin.get(origin);
    if (party === undefined) throw new Refusal("log-unknown", `the policy knows no log ${origin}`);
    if (opened.has(origin)) throw new Refusal("passport-invalid", `it has two checkpoints of ${origin}`);
    const policy = policies.get(party.id)!;
    const newest = await openNamed(origin, checkpoint, policy, state);
    const older = before === undefined ? undefined : await openNamed(origin, before, policy, state);
    const indices = passport.acts.filter((act) => act.origin === origin).map((act) => act.index);
    if (indices.length === 0)
      throw new Refusal("passport-invalid", `it has a checkpoint of ${origin} and no act in it`);
    if (older !== undefined && (older.size > Math.max(...indices) || older.size >= newest.size)) {
      throw new Refusal("checkpoint-invalid", `the earlier checkpoint of ${origin} doesn't lie before its newest act`);
    }
    const proofs = new ProofReader(newest.size, newest.root);
    opened.set(origin, older === undefined ? { newest, proofs } : { newest, older, proofs });
  }
  return opened;
}

async function openNamed(
  origin: string,
  note: string,
  policy: TlogPolicy,
  state: AuditState,
): Promise<SignedCheckpoint> {
  let opened: SignedCheckpoint;
  try {
    opened = await openUnderPolicy(utf8(note), policy, state.verify);
  } catch (error) {
    if (!isCountersignError(error) || error.kind === "internal" || error.kind === "unavailable") throw error;
    throw new Refusal(error.code, `${origin}: ${error.message}`);
  }
  if (opened.origin === origin) return opened;
  throw new Refusal("checkpoint-invalid", `a checkpoint of ${opened.origin} is not one of ${origin}`);
}

/** A witness vouches for its own clock alone: of several, the one that says least is believed. */
function ledgerOf({ newest, older }: OpenedLog, state: AuditState): PassportLog {
  const times = (signed: SignedCheckpoint | undefined) => signed?.signatures.flatMap(({ time }) => time ?? []) ?? [];
  const after = timeOf(Math.min(...times(older)));
  const before = timeOf(Math.max(...times(newest)));
  return {
    party: state.byOrigin.get(newest.origin)!.id,
    origin: newest.origin,
    size: newest.size,
    ...(after === undefined ? {} : { after }),
    ...(before === undefined ? {} : { before }),
  };
}

/** Undefined where there is no cosignature: RFC 3339 can write the time of any that was taken. */
function timeOf(seconds: number): string | undefined {
  return seconds >= 0 && seconds <= 253_402_300_799 ? new Date(seconds * 1000).toISOString() : undefined;
}

async function apply(
  at: Placed,
  parsed: ParsedEntry,
  party: PartyState,
  passport: PassportEvidence,
  state: AuditState,
): Promise<void> {
  const { act } = parsed;
  const fault = formFault(parsed, party, state);
  if (fault !== undefined) return wrong(state, at, "act-invalid", fault);
  const self = { origin: party.log.name, leafHash: at.leafHash };
  if (state.seen.has(self)) return wrong(state, at, "act-repeated", "it is there twice");
  for (const ref of antecedents(parsed)) {
    if (!state.seen.has(ref)) {
      return wrong(state, at, "reference-missing", `it names ${ref.leafHash} of ${ref.origin}, which isn't before it`);
    }
  }
  state.seen.add(self, Date.parse(act.time));
  await checkSignature(at, parsed, party, state);
  if ("intake" in act.fields && act.fields.intake.kind === "manifest") {
    await checkManifestSigner(at, act.fields.intake.digest, party, state);
  }
  await takeIn(at, party, state, (released) => onReleasedOne(released, party, passport, state));
}

/**
 * A release without its list. What the list must say of this device is known from its built record; that the list does
 * say it is shown by the path in the taker's next act, which is checked against the signed root.
 */
function onReleasedOne(
  at: Placed<"handoff-released">,
  party: PartyState,
  passport: PassportEvidence,
  state: AuditState,
): void {
  const { id, from, lot } = at.act.fields;
  if (from !== party.id) return wrong(state, at, "handoff-invalid", `it releases what ${from} has`, id);
  if (!openLot(at, lot, party, state)) return;
  if (state.handoffs.has(id)) return wrong(state, at, "handoff-invalid", "the handoff was released before", id);
  const device = state.devices.get(passport.device.id);
  if (device === undefined || device.holder !== party.id || device.lot !== lot) {
    return wrong(state, at, "custody-broken", `${party.id} releases a device it doesn't hold`, passport.device.id);
  }
  const { spkiSha256, csrSha256, slot } = device;
  const item: HandoffItem = {
    deviceId: device.id,
    spkiSha256,
    csrSha256,
    slot,
    prev: state.seen.leafHash(device.last),
  };
  addHandoff(state, at, { rows: Uint32Array.of(device.row), leafHashes: leafHash(handoffItem(item)) });
  device.holder = undefined;
}

interface Certified {
  readonly by: PartyState;
  readonly der: Uint8Array;
  /** its issuers when it was certified, the root last */
  readonly chain: readonly Certificate[];
  readonly purpose: string;
}

/** The chains are those of the acts, to the last byte. Gives the issuing party. */
function checkChains(passport: PassportEvidence, device: DeviceState, certified: Certified | undefined): string {
  if (certified === undefined) throw new Refusal("certificate-invalid", "no act certified the device");
  if (device.list !== undefined) {
    throw new Refusal("custody-broken", "nothing shows the device in the list of its last handoff");
  }
  const { by, der, purpose } = certified;
  const expected = [der, ...certified.chain.slice(0, -1).map((c) => c.der)];
  const chain = passport.chains[0]!;
  const same =
    passport.chains.length === 1 &&
    chain.purpose === purpose &&
    chain.certificates.length === expected.length &&
    chain.certificates.every((each, i) => equalBytes(each, expected[i]!));
  if (!same) throw new Refusal("certificate-invalid", "the chain is not the one that was certified and granted");
  return by.id;
}

function checkOpenings(passport: PassportEvidence, committed: ReadonlySet<string>): void {
  const shown = new Set(passport.openings.map((opening) => opening.commitment));
  if (shown.size < passport.openings.length) throw new Refusal("opening-invalid", "it shows one commitment twice");
  for (const opening of passport.openings) {
    const found = toHex(commitment(opening.domain, fromHex(opening.salt), opening.value, sha256));
    if (found !== opening.commitment || !committed.has(found)) {
      throw new Refusal("opening-invalid", `the opening of ${opening.domain} doesn't fit a commitment in the acts`);
    }
  }
}
