import { toHex } from "../../domain/bytes.ts";
import { CountersignError, isCountersignError } from "../../domain/errors.ts";
import { sha256 as portableSha256, type Sha256 } from "../../domain/hash.ts";
import type { VerifySignature } from "../../domain/signing.ts";
import type { Certificate } from "../../pki/certificate.ts";
import type { ActType } from "../../records/acts.ts";
import type { Policy } from "../../records/policy.ts";
import type { SplitView } from "../../records/split-view.ts";
import { meetsQuorum, openUnderPolicy, type TlogPolicy } from "../policy.ts";
import { LogReader, type LogReaderOptions } from "../reader.ts";
import { continues } from "../split-view.ts";
import { beginAudit, partyPolicies } from "./begin.ts";
import { inCausalOrder, type CausalEvent } from "./causal-order.ts";
import { onReleased } from "./custody.ts";
import type { Devices } from "./devices.ts";
import { takeIn } from "./dispatch.ts";
import { Findings, type Finding } from "./finding.ts";
import { formFault } from "./form.ts";
import { checkManifestSigner } from "./intake.ts";
import { DigestTable } from "./packed/digest-table.ts";
import { placesOf, reportOpenEnds, type LotPlaces } from "./open-ends.ts";
import { wrong, type AuditState, type PartyState, type Placed } from "./state.ts";
import { Timeline, type TimelineReport } from "./timeline.ts";
import { checkOwnWitnesses } from "./own-witness.ts";
import { checkSignature } from "./trust.ts";

export interface AuditSource {
  readonly root: Certificate;
  readonly policy: Policy;
  /** A file of one party's static log (`checkpoint`, `tile/...`, `blobs/<sha256>`). Not trusted. */
  readonly fetch: (party: string, path: string) => Promise<Uint8Array | undefined>;
  /** The same of an older copy: each party's ledger must continue what it had then. */
  readonly previous?: (party: string, path: string) => Promise<Uint8Array | undefined>;
  readonly verify: VerifySignature;
  readonly sha256?: Sha256;
  readonly onProgress?: (acts: number, total: number) => void;
}

export interface PartyAudit {
  readonly id: string;
  readonly origin: string;
  readonly size: number;
  readonly acts: Readonly<Partial<Record<ActType, number>>>;
}

export interface LotAudit extends LotPlaces {
  readonly id: string;
  readonly builder: string;
  readonly issuer: string;
  readonly slots: number;
  readonly built: number;
  readonly certified: number;
  readonly injected: number;
  readonly installed: number;
}

export interface AuditReport {
  readonly ok: boolean;
  readonly rootSha256: string;
  /** `none`: at least one of the ledgers needs no witness */
  readonly quorum: "none" | "met";
  readonly parties: readonly PartyAudit[];
  readonly lots: readonly LotAudit[];
  readonly devices: number;
  /** absent when there was no act */
  readonly timeline?: TimelineReport;
  /** the first of each severity */
  readonly findings: readonly Finding[];
  /** how many there are of severity `error`, and of severity `open`, listed or not */
  readonly errors: number;
  readonly open: number;
}

export interface AuditResult {
  readonly report: AuditReport;
  /** what proves to anybody that a party's log signed two histories */
  readonly splitViews: ReadonlyMap<string, SplitView>;
  readonly devices: Pick<Devices, "get">;
  readonly parties: ReadonlyMap<string, PartyState>;
}

/**
 * Audits all parties' ledgers together, trusting the root and the policy alone: every tree, every act in causal order,
 * every grant, certificate and change of hands. Evidence that doesn't hold becomes a finding; only a source that can't
 * be reached throws.
 * @throws CountersignError `policy-invalid`, and whatever the source throws as unreachable
 */
export async function auditLedgers(source: AuditSource): Promise<AuditResult> {
  const hash = source.sha256 ?? portableSha256;
  const findings = new Findings();
  const rootSha256 = toHex(hash(source.root.der));
  if (rootSha256 !== source.policy.rootSha256) {
    findings.add({ severity: "error", code: "root-mismatch", party: "-", message: "the policy pins another root" });
  }
  const policies = partyPolicies(source.policy);
  const { root, verify } = source;
  const splitViews = new Map<string, SplitView>();
  const logs = await openLogs(source, policies, findings, hash, splitViews);
  const rootAt = async (party: string, size: number) => logs.get(party)?.rootAt(size);
  const blob = blobsOf(source, hash);
  const state = beginAudit({ root, verify, sha256: hash, findings, everyBlob: true, rootAt, blob }, policies);
  const counts = new Map<string, Map<ActType, number>>([...logs.keys()].map((party) => [party, new Map()]));
  const total = [...logs.values()].reduce((sum, log) => sum + log.size, 0);
  const manifests = new Map([...logs.keys()].map((party) => [party, new DigestTable()]));

  const timeline = new Timeline();
  let done = 0;
  for await (const event of inCausalOrder(logs, (ref) => state.seen.has(ref))) {
    const party = state.parties.get(event.party)!;
    await onEvent(event, party, state, counts.get(event.party)!, manifests.get(event.party)!);
    if (event.kind === "act") timeline.add(event.party, Date.parse(event.parsed.act.time));
    source.onProgress?.(++done, total);
  }
  const places = placesOf(state);
  reportOpenEnds(state, places);
  checkOwnWitnesses(policies, state);

  const during = timeline.report();
  const quorumFree = [...policies.values()].some((policy) => meetsQuorum(policy, new Set()));
  const report: AuditReport = {
    ok: findings.errors === 0,
    rootSha256,
    quorum: quorumFree ? "none" : "met",
    parties: [...logs].map(([id, log]) => ({
      id,
      origin: log.origin,
      size: log.size,
      acts: Object.fromEntries(counts.get(id)!),
    })),
    lots: [...state.lots.values()].map((lot) => ({
      id: lot.id,
      builder: lot.terms.builder,
      issuer: lot.terms.issuer,
      slots: lot.terms.slots,
      built: lot.built.size,
      certified: lot.certified.size,
      injected: lot.injected,
      installed: lot.installed,
      ...places.get(lot.id)!,
    })),
    devices: state.devices.size,
    ...(during === undefined ? {} : { timeline: during }),
    findings: findings.list,
    errors: findings.errors,
    open: findings.open,
  };
  return { report, splitViews, devices: state.devices, parties: state.parties };
}

/** Blobs kept at once, and bytes of them; one larger than all of these is kept alone. */
const KEPT = 64;
const KEPT_BYTES = 16 << 20;

/** Blobs by their digest. A batch's manifest is asked for once a device: the last few are kept. */
function blobsOf(source: AuditSource, hash: Sha256): AuditState["blob"] {
  const blobs = new Map<string, Uint8Array | undefined>();
  let held = 0;
  return async (party, sha) => {
    const key = `${party}/${sha}`;
    if (blobs.has(key)) return blobs.get(key);
    const bytes = await source.fetch(party, `blobs/${sha}`);
    const good = bytes && toHex(hash(bytes)) === sha ? bytes : undefined;
    held += good?.length ?? 0;
    for (const [oldest, old] of blobs) {
      if (blobs.size < KEPT && held <= KEPT_BYTES) break;
      held -= old?.length ?? 0;
      blobs.delete(oldest);
    }
    blobs.set(key, good);
    return good;
  };
}

async function openLogs(
  source: AuditSource,
  policies: ReadonlyMap<string, TlogPolicy>,
  findings: Findings,
  hash: Sha256,
  splitViews: Map<string, SplitView>,
): Promise<Map<string, LogReader>> {
  const readers = new Map<string, LogReader>();
  for (const [party, policy] of policies) {
    try {
      const fetch = (path: string) => source.fetch(party, path);
      const note = await fetch("checkpoint");
      if (!note) throw new CountersignError("not-found", `the ledger of ${party} has no checkpoint`);
      await openUnderPolicy(note, policy, source.verify);
      const options = { fetch, log: policy.logs[0]!, verify: source.verify, checkpoint: note, sha256: hash };
      const reader = await LogReader.open(options);
      readers.set(party, reader);
      await holdAgainstPrevious(reader, party, options, { source, findings, splitViews });
    } catch (error) {
      if (!isCountersignError(error) || error.kind === "unavailable" || error.kind === "internal") throw error;
      const code = error.code === "not-found" ? "ledger-missing" : "ledger-invalid";
      findings.add({ severity: "error", code, party, message: error.message });
    }
  }
  return readers;
}

async function holdAgainstPrevious(
  reader: LogReader,
  party: string,
  options: LogReaderOptions,
  { source, findings, splitViews }: { source: AuditSource; findings: Findings; splitViews: Map<string, SplitView> },
): Promise<void> {
  const { previous } = source;
  if (previous === undefined) return;
  const note = await previous(party, "checkpoint");
  if (note === undefined) {
    const message = "the older copy has no checkpoint of this ledger: whether it continues an older one isn't shown";
    return findings.add({ severity: "open", code: "previous-missing", party, message });
  }
  const found = await continues(reader, { note, fetch: (path) => previous(party, path) }, options);
  if (found.ok) return;
  findings.add({ severity: "error", code: "ledger-forked", party, message: found.message });
  if (found.evidence !== undefined) splitViews.set(party, found.evidence);
}

async function onEvent(
  event: CausalEvent,
  party: PartyState,
  state: AuditState,
  counts: Map<ActType, number>,
  manifests: DigestTable,
): Promise<void> {
  if (event.kind !== "act") {
    const code = event.kind === "broken" ? "ledger-invalid" : "act-invalid";
    state.findings.add({
      severity: "error",
      code,
      party: event.party,
      message: event.message,
      ...(event.kind === "invalid" ? { index: event.index } : {}),
    });
    return;
  }
  const { parsed, leafHash, entry } = event;
  const act = parsed.act;
  const at: Placed = { party: party.id, index: entry.index, leafHash, act };
  counts.set(act.type, (counts.get(act.type) ?? 0) + 1);
  const fault = formFault(parsed, party, state);
  if (fault !== undefined) return wrong(state, at, "act-invalid", fault);
  const ref = { origin: party.log.name, leafHash };
  if (state.seen.has(ref)) return wrong(state, at, "act-repeated", "the same act was logged before");
  state.seen.add(ref, Date.parse(act.time));
  for (const { leafHash: missing, origin } of event.missing)
    wrong(state, at, "reference-missing", `it names ${missing} of ${origin}, which isn't there`);
  try {
    await checkSignature(at, parsed, party, state);
    await checkBlobs(at, party, state);
    await checkBatchOnce(at, party, state, manifests);
    await takeIn(at, party, state, onReleased);
  } catch (error) {
    if (!isCountersignError(error) || error.kind === "unavailable" || error.kind === "internal") throw error;
    wrong(state, at, "act-invalid", error.message);
  }
}

/** What an act says lies beside the ledger lies there: without it nobody can tell what was signed. */
async function checkBlobs(at: Placed, party: PartyState, state: AuditState): Promise<void> {
  for (const { name, sha256, size } of at.act.blobs) {
    const bytes = await state.blob(party.id, sha256);
    if (!bytes) wrong(state, at, "blob-missing", `its ${name} ${sha256} doesn't lie beside the ledger`);
    else if (bytes.length !== size)
      wrong(state, at, "act-invalid", `its ${name} has ${bytes.length} bytes, not ${size}`);
  }
}

async function checkBatchOnce(at: Placed, party: PartyState, state: AuditState, manifests: DigestTable): Promise<void> {
  const fields = at.act.fields;
  if (!("intake" in fields) || fields.intake.kind !== "manifest") return;
  if (manifests.has(fields.intake.digest)) return;
  manifests.add(fields.intake.digest);
  await checkManifestSigner(at, fields.intake.digest, party, state);
}
