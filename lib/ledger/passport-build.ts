/** Gathers a device's passport from the parties' ledgers. */
import { fromBase64, fromUtf8, toHex } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { sha256Hex } from "../domain/hash.ts";
import type { Certificate } from "../pki/certificate.ts";
import type { ActType } from "../records/acts.ts";
import type { Opening } from "../records/opening.ts";
import type { Passport } from "../records/passport.ts";
import type { Policy } from "../records/policy.ts";
import type { ActRef } from "../records/primitives.ts";
import { parseEntry, type AnyAct, type ParsedEntry } from "../records/statement.ts";
import { partyPolicies } from "./audit/begin.ts";
import { antecedents } from "./audit/causal-order.ts";
import { parseCheckpoint } from "./checkpoint.ts";
import { formatNote, parseNote } from "./note.ts";
import { purposeOf, type PassportEntry, type PassportEvidence } from "./passport-evidence.ts";
import { packPassport } from "./passport-pack.ts";
import { policyDigest } from "./passport.ts";
import type { TlogPolicy } from "./policy.ts";
import type { LogReader } from "./reader.ts";

/** Line records are one per device; every other act is kept whole, since many devices' passports hold it. */
const PER_DEVICE: ReadonlySet<ActType> = new Set(["built", "attested", "certified", "injected", "installed"]);

const GROUND: ReadonlySet<ActType> = new Set(["keyset", "ceremony", "acceptance", "rotated", "lot-opened"]);

interface IndexedAct {
  readonly index: number;
  readonly bytes: Uint8Array;
  readonly leafHash: string;
  readonly parsed: ParsedEntry;
}

/** Where one ledger's acts lie: by device, by leaf hash. Made by reading the log once; remembers a number per record. */
export class LedgerIndex {
  readonly party: string;
  readonly reader: LogReader;
  /** acts that concern more than one device, by leaf hash */
  readonly shared = new Map<string, IndexedAct>();
  /** of these, what other acts rest on without naming it */
  readonly ground: IndexedAct[] = [];
  /** what was said of a certificate's revocation, in order, by the act that holds the certificate */
  readonly revocations = new Map<string, IndexedAct[]>();
  readonly #byDevice = new Map<string, number[]>();
  readonly #proofs = new Map<string, Promise<Uint8Array[]>>();

  private constructor(party: string, reader: LogReader) {
    this.party = party;
    this.reader = reader;
  }

  /** @throws CountersignError `tile-invalid`, `act-invalid` */
  static async read(party: string, reader: LogReader): Promise<LedgerIndex> {
    const result = new LedgerIndex(party, reader);
    for await (const { index, bytes, leafHash: hash } of reader.entries()) {
      const device = perDeviceSubject(bytes);
      if (device === undefined) {
        const hex = toHex(hash);
        const act = { index, bytes, leafHash: hex, parsed: parseEntry(bytes) };
        result.shared.set(hex, act);
        if (GROUND.has(act.parsed.act.type)) result.ground.push(act);
        result.#noteRevocation(act);
        continue;
      }
      const list = result.#byDevice.get(device);
      if (list === undefined) result.#byDevice.set(device, [index]);
      else list.push(index);
    }
    return result;
  }

  #noteRevocation(found: IndexedAct): void {
    const { act } = found.parsed;
    if (act.type !== "revoked") return;
    const of = act.fields.certificate.act;
    this.revocations.set(of, [...(this.revocations.get(of) ?? []), found]);
  }

  devices(): Iterable<string> {
    return this.#byDevice.keys();
  }

  async actsOf(device: string): Promise<IndexedAct[]> {
    const acts: IndexedAct[] = [];
    for (const index of this.#byDevice.get(device) ?? []) acts.push(await this.#read(index));
    return acts;
  }

  async #read(index: number): Promise<IndexedAct> {
    const { bytes, leafHash: hash } = await this.reader.entry(index);
    return { index, bytes, leafHash: toHex(hash), parsed: parseEntry(bytes) };
  }

  /** Shared acts' paths are asked for with every device, and kept. */
  proof(act: IndexedAct, size: number): Promise<Uint8Array[]> {
    const make = (): Promise<Uint8Array[]> => this.reader.inclusionProof(act.index, size);
    if (!this.shared.has(act.leafHash)) return make();
    const key = `${act.index}@${size}`;
    let proof = this.#proofs.get(key);
    if (proof === undefined) {
      if (this.#proofs.size > 10_000) this.#proofs.clear();
      proof = make();
      this.#proofs.set(key, proof);
    }
    return proof;
  }
}

/** The device of a per-device line record, undefined for any other act. Read loosely: what is used is parsed strictly. */
function perDeviceSubject(bytes: Uint8Array): string | undefined {
  try {
    const { predicateType, subject } = JSON.parse(fromUtf8(bytes)) as {
      predicateType?: string;
      subject?: { name?: string }[];
    };
    const type = /^urn:countersign:act:([a-z-]+):v1$/.exec(predicateType ?? "")?.[1];
    return type !== undefined && PER_DEVICE.has(type as ActType) ? subject?.[0]?.name : undefined;
  } catch {
    return undefined;
  }
}

export interface PassportSource {
  /** by party id: every party whose ledger the device's acts are in or refer to */
  readonly logs: ReadonlyMap<string, LedgerIndex>;
  readonly root: Certificate;
  readonly policy: Policy;
  /** bytes that lie beside a party's ledger, by SHA-256 */
  readonly blob: (party: string, sha256: string) => Promise<Uint8Array | undefined>;
  /** Older signed checkpoints (notes), to bound the time of the newest act. Without it the reader's own is used. */
  readonly checkpoints?: {
    /** the first that includes entry `index` */
    over(party: string, index: number): Promise<Uint8Array | undefined>;
    /** the last that doesn't */
    before(party: string, index: number): Promise<Uint8Array | undefined>;
  };
  readonly openings?: readonly Opening[];
}

/** @throws CountersignError as {@link gatherEvidence} */
export async function buildPassport(deviceId: string, source: PassportSource): Promise<Passport> {
  return packPassport(await gatherEvidence(deviceId, source), source.root.der);
}

/**
 * The device's acts, with all that they rest on: keysets, the ceremony, grants and acceptances, lots, handoffs, intents.
 * @throws CountersignError `not-found` when no ledger knows the device or an act that its history names; `state-conflict`
 *   when it isn't certified yet
 */
export async function gatherEvidence(deviceId: string, source: PassportSource): Promise<PassportEvidence> {
  const wanted = await gather(deviceId, source);
  const acts = inOrder(wanted);
  const built = find(acts, "built");
  const certified = find(acts, "certified");
  if (built === undefined || certified === undefined) {
    const what = acts.length === 0 ? "not-found" : "state-conflict";
    throw new CountersignError(what, `${deviceId} has no ${built === undefined ? "built" : "certified"} record yet`);
  }

  const { known, policySha256 } = readPolicy(source.policy);
  const sizes = new Map<string, number>();
  const logs: Passport["logs"] = [];
  for (const [party, list] of wanted) {
    const { reader } = source.logs.get(party)!;
    const last = Math.max(...[...list.values()].map((act) => act.index));
    const note = (await source.checkpoints?.over(party, last)) ?? reader.checkpoint.note;
    const before = last === 0 ? undefined : await source.checkpoints?.before(party, last);
    sizes.set(party, parseCheckpoint(parseNote(note).text).size);
    logs.push({
      origin: reader.origin,
      party,
      checkpoint: onlyKnown(note, known),
      ...(before === undefined ? {} : { before: onlyKnown(before, known) }),
    });
  }

  const proven: PassportEntry[] = [];
  for (const { party, act } of acts) {
    const log = source.logs.get(party)!;
    const path = await log.proof(act, sizes.get(party)!);
    proven.push({ origin: log.reader.origin, index: act.index, entry: act.bytes, path, read: act });
  }
  return {
    device: { id: deviceId, spkiSha256: sha256Hex(fromBase64(built.fields.spki)) },
    policySha256,
    chains: [
      {
        purpose: purposeOf(certified.fields.profile.name),
        certificates: [certified.fields.certificate, ...issuersOf(certified, acts)].map(fromBase64),
      },
    ],
    logs,
    acts: proven,
    manifests: await manifestsOf(acts, source),
    openings: source.openings ?? [],
  };
}

const lineKey = ({ name, keyId }: { name: string; keyId: string }): string => `${name} ${keyId}`;

/** The policy's digest, and the keys it names; read once for all passports. */
function readPolicy(policy: Policy): { known: ReadonlySet<string>; policySha256: string } {
  let read = policies.get(policy);
  if (read === undefined) {
    const known = new Set([...partyPolicies(policy).values()].flatMap(keysOf));
    policies.set(policy, (read = { known, policySha256: policyDigest(policy) }));
  }
  return read;
}
const policies = new WeakMap<Policy, { known: ReadonlySet<string>; policySha256: string }>();

function keysOf({ logs, witnesses }: TlogPolicy): string[] {
  return [...logs, ...witnesses.values()].map(lineKey);
}

/** The note with the signatures that the policy can say something about: every other line would travel for nothing. */
function onlyKnown(note: Uint8Array, known: ReadonlySet<string>): string {
  const { text, signatures } = parseNote(note);
  return fromUtf8(formatNote({ text, signatures: signatures.filter((line) => known.has(lineKey(line))) }));
}

interface Gathered {
  readonly party: string;
  readonly act: IndexedAct;
}

/** The device's own acts and everything they name, and what those name, by party and leaf hash. */
async function gather(deviceId: string, { logs }: PassportSource): Promise<Map<string, Map<string, IndexedAct>>> {
  const byOrigin = new Map([...logs.values()].map((log) => [log.reader.origin, log]));
  const wanted = new Map<string, Map<string, IndexedAct>>();
  const open: ActRef[] = [];
  const want = (log: LedgerIndex, act: IndexedAct): void => {
    const list = wanted.get(log.party) ?? new Map<string, IndexedAct>();
    wanted.set(log.party, list);
    if (list.has(act.leafHash)) return;
    list.set(act.leafHash, act);
    open.push(...antecedents(act.parsed));
    for (const revocation of log.revocations.get(act.leafHash) ?? []) want(log, revocation);
    for (const ground of log.ground) if (isGround(ground.parsed.act, act)) want(log, ground);
  };
  const follow = (): void => {
    for (let ref = open.pop(); ref !== undefined; ref = open.pop()) {
      const log = byOrigin.get(ref.origin);
      const act = log?.shared.get(ref.leafHash);
      if (act !== undefined) want(log!, act);
      // The device's own records are all wanted already; anything else must be there.
      else if (wanted.get(log?.party ?? "")?.has(ref.leafHash) !== true) {
        throw new CountersignError("not-found", `act ${ref.leafHash} of ${ref.origin} is in none of the ledgers`);
      }
    }
  };
  for (const log of logs.values()) for (const act of await log.actsOf(deviceId)) want(log, act);
  follow();
  return wanted;
}

/** Does `act` rest on `ground` of the same ledger without naming it? */
function isGround(ground: AnyAct, { index, parsed: { act } }: IndexedAct): boolean {
  // What is signed after a change of the CA's key is held against it.
  if (ground.type === "rotated") return act.type === "intent" && index >= ground.fields.effectiveSize;
  if (ground.type === "acceptance") return act.grant !== undefined && ground.grant?.leafHash === act.grant.leafHash;
  if (ground.type === "lot-opened") return "lot" in act.fields && act.fields.lot === ground.fields.lot;
  return true;
}

/** Every act after those it names, each ledger's in its own order. */
function inOrder(wanted: ReadonlyMap<string, ReadonlyMap<string, IndexedAct>>): Gathered[] {
  const queues = [...wanted].map(([party, list]) => ({
    party,
    acts: [...list.values()].sort((a, b) => a.index - b.index),
  }));
  const done = new Set<string>();
  const out: Gathered[] = [];
  const total = queues.reduce((sum, queue) => sum + queue.acts.length, 0);
  while (out.length < total) {
    const ready = queues.find(
      ({ acts: [next] }) => next && antecedents(next.parsed).every((r) => done.has(r.leafHash)),
    );
    const act = ready?.acts.shift();
    if (ready === undefined || act === undefined) {
      throw new CountersignError("act-invalid", "the device's acts name each other in a circle");
    }
    done.add(act.leafHash);
    out.push({ party: ready.party, act });
  }
  return out;
}

function find<T extends ActType>(acts: readonly Gathered[], type: T): Extract<AnyAct, { type: T }> | undefined {
  const found = acts.find(({ act }) => act.parsed.act.type === type)?.act.parsed.act;
  return found as Extract<AnyAct, { type: T }> | undefined;
}

/** The issuers' certificates, the leaf's first, without the root: what the grants hold, followed up to the ceremony. */
function issuersOf(certified: AnyAct, acts: readonly Gathered[]): string[] {
  const byLeaf = new Map(acts.map(({ act }) => [act.leafHash, act.parsed.act]));
  const issuers: string[] = [];
  let ref = certified.grant;
  while (ref !== undefined) {
    const grant = byLeaf.get(ref.leafHash);
    if (grant?.type !== "delegation" || issuers.length > 8) {
      throw new CountersignError("act-invalid", "the certified record's grant doesn't lead to the root");
    }
    issuers.push(grant.fields.certificate);
    ref = grant.fields.parentGrant;
  }
  return issuers;
}

async function manifestsOf(acts: readonly Gathered[], source: PassportSource): Promise<Uint8Array[]> {
  const digests = new Map<string, string>();
  for (const { party, act } of acts) {
    const { fields } = act.parsed.act;
    if ("intake" in fields && fields.intake.kind === "manifest") digests.set(fields.intake.digest, party);
  }
  const out: Uint8Array[] = [];
  for (const [sha256, party] of digests) {
    const dsse = await source.blob(party, sha256);
    if (dsse === undefined) {
      throw new CountersignError("not-found", `the manifest ${sha256} doesn't lie beside the ledger of ${party}`);
    }
    out.push(dsse);
  }
  return out;
}
