import { equalBytes, fromUtf8, toHex } from "../../lib/domain/bytes.ts";
import type { SignatureAlgorithm, VerifySignature } from "../../lib/domain/signing.ts";
import { leafHash } from "../../lib/ledger/tree.ts";
import { ACT_CLASSES, ACT_TYPES, type ActType } from "../../lib/records/acts.ts";
import { verifyDsse } from "../../lib/records/dsse.ts";
import { parseEntry, predicateType as predicateTypeOf } from "../../lib/records/statement.ts";
import type { ActRef } from "../../lib/records/primitives.ts";
import type { PendingAct } from "../../store/ledger.ts";
import { nodeSha256, sha256Hex } from "./sha256.ts";

/** A key that may sign acts of this ledger. */
export interface ActKey {
  /** SHA-256 of the SPKI, hex */
  readonly keyId: string;
  readonly spki: Uint8Array;
  readonly algorithm: SignatureAlgorithm;
}

const LINE_TYPES: ReadonlySet<unknown> = new Set(
  ACT_TYPES.filter((type) => ACT_CLASSES[type].class === "line").map(predicateTypeOf),
);

/** What the party may act under. */
export interface Standing {
  /** the ceremony's party: it acts under no grant */
  readonly root: boolean;
  /** grants that the party has accepted, also earlier ones: an act may have waited */
  readonly grants: readonly ActRef[];
}

/** A line record of which the leaf hash alone says all: who vouches has built and validated it. */
export interface Vouched {
  readonly type: ActType;
  readonly grant: ActRef | undefined;
  /** its exact bytes */
  readonly entry: Uint8Array;
}

/** What a party records before it has a grant. */
const GRANTLESS: ReadonlySet<string> = new Set((["keyset", "ceremony"] as const).map(predicateTypeOf));

export interface AdmissionContext {
  readonly origin: string;
  readonly actKeys: () => readonly ActKey[] | Promise<readonly ActKey[]>;
  readonly verify: VerifySignature;
  /** asked for every batch; without it no act's grant is looked at */
  readonly standing?: () => Promise<Standing>;
  /** of these leaf hashes (hex), those that are not in the tree */
  readonly unsequenced: (leafHashes: readonly string[]) => Promise<readonly string[]>;
  /** the entries of these retry keys, by retry key (hex) */
  readonly entries: (retryKeys: readonly Uint8Array[]) => Promise<ReadonlyMap<string, Uint8Array>>;
  /** What this process knows of a line record that it built itself, for this ledger: its bytes needn't be read. */
  readonly vouched?: ((leafHash: string) => Vouched | undefined) | undefined;
}
export interface Admission {
  readonly admitted: (PendingAct & { readonly entry: Uint8Array })[];
  readonly refused: { readonly act: PendingAct; readonly reason: string }[];
}

/**
 * The last gate before the tree, which can't be corrected afterwards: an act is let in when its bytes hash to its leaf
 * hash, every previous act of this ledger that it names is in the tree or before it in this batch, it stands under a
 * grant that the party has accepted (the root's party has none), and, for a signed act, one of the party's act keys
 * signed it. Order is kept. Refusing for good is right: an act can only be recorded when what it names is, so a missing
 * one was refused itself or the tables were touched from outside.
 */
export async function admit(pending: readonly PendingAct[], context: AdmissionContext): Promise<Admission> {
  const inBatch = new Set<string>();
  const elsewhere = new Set<string>();
  for (const act of pending) {
    for (const hash of act.prev) if (!inBatch.has(hash)) elsewhere.add(hash);
    inBatch.add(act.leafHex);
  }
  const absent = await context.unsequenced([...elsewhere]);
  // From here on what was found in the tree, and what this batch brings.
  const present = elsewhere;
  for (const hash of absent) present.delete(hash);
  const standing = pending.length === 0 ? undefined : await context.standing?.();
  const mayAct = standing && { root: standing.root, grants: new Set(standing.grants.map(grantKey)) };
  const vouched = new Map(pending.map((act) => [act, context.vouched?.(act.leafHex)]));
  const strangers = pending.filter((act) => vouched.get(act) === undefined);
  const entries = await context.entries(strangers.map((act) => act.retryKey));
  const keys = [...entries.values()].some(isSigned) ? await context.actKeys() : [];

  const admitted: Admission["admitted"] = [];
  const refused: Admission["refused"] = [];
  for (const act of pending) {
    const own = vouched.get(act);
    const entry = own ? undefined : (entries.get(toHex(act.retryKey)) ?? new Uint8Array());
    const reason =
      prevReason(act, present) ??
      hashReason(act, entry) ??
      (entry
        ? await contentReason(entry, keys, mayAct, context)
        : grantReason(predicateTypeOf(own!.type), own!.grant, mayAct));
    if (reason === undefined) {
      admitted.push({ ...act, entry: own?.entry ?? entry! });
      present.add(act.leafHex);
    } else {
      refused.push({ act, reason });
    }
  }
  return { admitted, refused };
}

function prevReason(act: PendingAct, present: ReadonlySet<string>): string | undefined {
  const missing = act.prev.find((hash) => !present.has(hash));
  return missing === undefined ? undefined : `its previous act ${missing} is not in the ledger`;
}

function hashReason(act: PendingAct, entry: Uint8Array | undefined): string | undefined {
  return act.intact && (entry === undefined || equalBytes(leafHash(entry, nodeSha256), act.leafHash))
    ? undefined
    : "its bytes are not those of its leaf hash";
}

interface MayAct {
  readonly root: boolean;
  readonly grants: ReadonlySet<string>;
}

const grantKey = ({ origin, leafHash: hash }: ActRef): string => `${origin} ${hash}`;

/**
 * A signed act is read again as a stranger's. A line record was validated when it was built: its class and its grant are
 * looked at.
 */
async function contentReason(
  entry: Uint8Array,
  keys: readonly ActKey[],
  mayAct: MayAct | undefined,
  { origin, verify }: AdmissionContext,
): Promise<string | undefined> {
  try {
    if (!isSigned(entry)) return lineReason(entry, origin, mayAct);
    const { act: statement, dsse } = parseEntry(entry);
    if (statement.origin !== origin) return `it names the ledger ${statement.origin}`;
    const ungranted = grantReason(predicateTypeOf(statement.type), statement.grant, mayAct);
    if (ungranted !== undefined) return ungranted;
    for (const key of keys) if (await verifyDsse(dsse!, key, verify)) return undefined;
    return "none of the party's act keys signed it";
  } catch (error) {
    return error instanceof Error ? error.message : "it can't be read";
  }
}

function lineReason(entry: Uint8Array, origin: string, mayAct: MayAct | undefined): string | undefined {
  const { predicateType, predicate } = JSON.parse(fromUtf8(entry)) as {
    predicateType?: unknown;
    predicate?: { origin?: unknown; grant?: ActRef };
  };
  if (!LINE_TYPES.has(predicateType)) return `an unsigned ${String(predicateType).slice(0, 80)} is not a line record`;
  if (predicate?.origin !== origin) return "it names another ledger";
  return grantReason(String(predicateType), predicate.grant, mayAct);
}

/** As the audit asks of every act, whoever it is about (lib/ledger/audit/form.ts). */
function grantReason(predicateType: string, grant: ActRef | undefined, mayAct: MayAct | undefined): string | undefined {
  if (mayAct === undefined) return undefined;
  if (grant !== undefined) {
    return mayAct.grants.has(grantKey(grant)) ? undefined : `the party never accepted the grant ${grant.leafHash}`;
  }
  return mayAct.root || GRANTLESS.has(predicateType) ? undefined : "it names no grant, and the party is not the root's";
}

// Canonical JSON: a DSSE envelope begins with its payload, a Statement with "_type".
function isSigned(entry: Uint8Array): boolean {
  return entry[2] === 0x70;
}

/** The key of a signer as admission compares it. */
export function actKey(spki: Uint8Array, algorithm: ActKey["algorithm"]): ActKey {
  return { keyId: sha256Hex(spki), spki, algorithm };
}
