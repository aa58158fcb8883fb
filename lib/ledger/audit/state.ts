import type { Sha256 } from "../../domain/hash.ts";
import type { VerifySignature } from "../../domain/signing.ts";
import type { Certificate } from "../../pki/certificate.ts";
import type { ActFields, ActType } from "../../records/acts.ts";
import type { Grant } from "../../records/grant.ts";
import type { Keyset } from "../../records/keyset.ts";
import type { ActRef } from "../../records/primitives.ts";
import type { Act } from "../../records/statement.ts";
import type { NoteKey } from "../note.ts";
import type { Devices } from "./devices.ts";
import type { FindingCode, Findings } from "./finding.ts";
import type { LotSettings } from "./lot-settings.ts";
import type { NameTable } from "./packed/name-table.ts";
import type { NumberSet } from "./packed/number-set.ts";
import type { ProvenTrees } from "./proven-trees.ts";
import type { SeenActs } from "./seen-acts.ts";

/** One act where it lies. */
export interface Placed<T extends ActType = ActType> {
  readonly party: string;
  readonly index: number;
  readonly leafHash: string;
  readonly act: Act<T>;
}

export interface GrantState {
  readonly ref: ActRef;
  readonly fields: Grant;
  readonly by: string;
  /** the child's CA certificate first, the root last */
  readonly chain: readonly Certificate[];
  accepted: boolean;
  /** a later revision was granted */
  renewed?: true;
}

export interface Rotation {
  /** SPKI, base64 */
  readonly from: string;
  readonly to: string;
  readonly effectiveSize: number;
  /** the one that names the new key */
  readonly grant: ActRef;
}

export interface PartyState {
  readonly id: string;
  readonly log: NoteKey;
  keyset?: Keyset;
  keysetAct?: ActRef;
  /** own CA certificate first, the root last; empty until granted (or, for the root's party, until the ceremony) */
  chain: readonly Certificate[];
  grant?: GrantState;
  /** changes of its CA's key, the first one first */
  readonly rotations: Rotation[];
  /** the last entry that intends certificates */
  lastIntent?: number;
  /** devices delegated on to children, and certified here */
  delegated: number;
  certified: number;
  /** the latest time, in milliseconds, that a `certified` act claims, and which act it is */
  lastCertified?: { readonly index: number; readonly time: number };
}

export interface LotState {
  readonly id: string;
  readonly terms: ActFields<"lot-opened">;
  readonly openedBy: Set<string>;
  readonly settings: LotSettings;
  /** slots */
  readonly built: NumberSet;
  readonly certified: NumberSet;
  injected: number;
  installed: number;
}

export interface IntentState {
  readonly index: number;
  readonly root: string;
  readonly count: number;
  readonly lot: string;
  readonly manifest: string;
  /** SPKI, base64, of the CA key that is to sign; undefined: of a party without a grant */
  readonly ca: string | undefined;
  /** certificates of it that were logged so far */
  certified: number;
}

/** What the issuer's ledger says last of a certificate that it revoked or held. */
export interface RevocationState {
  readonly party: string;
  readonly index: number;
  readonly leafHash: string;
  readonly target: "device" | "ca";
  /** of the device, or of the child */
  readonly subject: string;
  readonly effect: "final" | "hold" | "lift";
  readonly reason: string;
  /** as claimed, in milliseconds */
  readonly time: number;
}

/** What a handoff's list names, in its order. */
export interface ListedDevices {
  /** among all devices; NO_DEVICE for one that nobody had built */
  readonly rows: Uint32Array;
  /** of the list's RFC 6962 tree, 32 bytes each */
  readonly leafHashes: Uint8Array;
}
export const NO_DEVICE = 0xffff_ffff;

export interface HandoffState {
  readonly id: string;
  /** in the order of the releases */
  readonly number: number;
  readonly released: Placed<"handoff-released">;
  readonly items: ListedDevices;
  received: boolean;
  /** where the taker says so, and the devices that it says it didn't get */
  receipt?: { readonly index: number; readonly missing: readonly string[] };
}

/** Everything an audit has learnt so far, going through all ledgers in causal order. */
export interface AuditState {
  readonly root: Certificate;
  /** whose ledger holds the root's ceremony */
  rootParty?: string;
  readonly verify: VerifySignature;
  readonly sha256: Sha256;
  readonly findings: Findings;
  readonly trees: ProvenTrees;
  readonly parties: Map<string, PartyState>;
  readonly byOrigin: Map<string, PartyState>;
  readonly seen: SeenActs;
  readonly grants: Map<string, GrantState>;
  /** by their row in `seen` */
  readonly intents: Map<number, IntentState>;
  readonly lots: Map<string, LotState>;
  readonly devices: Devices;
  readonly handoffs: Map<string, HandoffState>;
  /** by their numbers */
  readonly handoffList: HandoffState[];
  /** by the row in `seen` of the act that holds the certificate */
  readonly revocations: Map<number, RevocationState>;
  /** `party#serial` */
  readonly serials: NameTable;
  readonly hubs: ActFields<"hub-registered">[];
  /** whether everything that lies beside the ledgers is at hand, or batches' manifests alone */
  readonly everyBlob: boolean;
  /** the root that a party's ledger had at a size; absent where ledgers aren't read whole */
  readonly rootAt?: (party: string, size: number) => Promise<Uint8Array | undefined>;
  /** bytes that lie beside a party's ledger, digest already checked */
  readonly blob: (party: string, sha256: string) => Promise<Uint8Array | undefined>;
}

export const refKey = (ref: ActRef): string => `${ref.origin}#${ref.leafHash}`;

/** Reports that this act doesn't hold. */
export function wrong(state: AuditState, at: Placed, code: FindingCode, message: string, subject?: string): void {
  state.findings.add({
    severity: "error",
    code,
    party: at.party,
    index: at.index,
    message: `${at.act.type}: ${message}`,
    ...(subject === undefined ? {} : { subject }),
  });
}
