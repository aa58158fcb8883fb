import type { Sha256 } from "../../domain/hash.ts";
import type { VerifySignature } from "../../domain/signing.ts";
import type { Certificate } from "../../pki/certificate.ts";
import type { ActFields, ActType } from "../../records/acts.ts";
import type { Grant } from "../../records/grant.ts";
import type { Keyset } from "../../records/keyset.ts";
import type { HandoffItem } from "../../records/manifest.ts";
import type { ActRef } from "../../records/primitives.ts";
import type { Act } from "../../records/statement.ts";
import type { NoteKey } from "../note.ts";
import type { FindingCode, Findings } from "./finding.ts";
import type { LotSettings } from "./lot-settings.ts";

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
}

export interface PartyState {
  readonly id: string;
  readonly log: NoteKey;
  keyset?: Keyset;
  keysetAct?: ActRef;
  /** own CA certificate first, the root last; empty until granted (or, for the root's party, until the ceremony) */
  chain: readonly Certificate[];
  grant?: GrantState;
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
  readonly built: Map<number, string>;
  readonly certified: Map<number, string>;
  injected: number;
  installed: number;
}

export interface DeviceState {
  readonly id: string;
  readonly lot: string;
  readonly slot: number;
  readonly spkiSha256: string;
  readonly csrSha256: string;
  /** who has it; undefined while it is on its way */
  holder: string | undefined;
  /** released, and by its taker's word not arrived */
  missing?: true;
  /** the last act about it; when that act covers a list, `item` and `list` place the device in it */
  last: ActRef;
  list?: { item: HandoffItem; root: string; count: number };
  /** its TPM was asked, before it was certified */
  attested?: true;
  certificate?: Certificate;
  certificateAct?: string;
  injected: boolean;
  /** of the logged receipt's canonical JSON, once injected */
  receiptSha256?: string;
  installed: boolean;
}

export interface IntentState {
  readonly index: number;
  readonly root: string;
  readonly count: number;
  readonly lot: string;
  readonly manifest: string;
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

export interface HandoffState {
  readonly id: string;
  readonly released: Placed<"handoff-released">;
  readonly items: readonly HandoffItem[];
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
  readonly parties: Map<string, PartyState>;
  readonly byOrigin: Map<string, PartyState>;
  /** by `origin#leafHash`; `time` as claimed, in milliseconds */
  readonly seen: Map<string, { type: ActType; party: string; index: number; time: number }>;
  readonly grants: Map<string, GrantState>;
  readonly intents: Map<string, IntentState>;
  readonly lots: Map<string, LotState>;
  readonly devices: Map<string, DeviceState>;
  readonly deviceByKey: Map<string, string>;
  readonly deviceByCsr: Map<string, string>;
  readonly handoffs: Map<string, HandoffState>;
  /** by the act that holds the certificate (refKey) */
  readonly revocations: Map<string, RevocationState>;
  readonly serials: Set<string>;
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
