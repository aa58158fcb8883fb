import type { SplitView } from "../../records/split-view.ts";

/** What a monitor says is wrong. An event stays; a condition ends when it is over. */
export type AlarmCode =
  | "ledger-forked"
  | "ledger-rolled-back"
  | "ledger-invalid"
  | "root-mismatch"
  | "act-invalid"
  | "slot-reused"
  | "unlogged-certificate"
  | "party-alarm"
  | "witness-lagging";

export interface Alarm {
  readonly code: AlarmCode;
  readonly party: string;
  /** what of the party's it is about; with code and party it names the alarm */
  readonly subject: string;
  readonly message: string;
  /** of the act at fault, in the party's ledger */
  readonly index?: number;
  /** what proves a fork to anybody */
  readonly evidence?: SplitView;
}

/** How far a log has been followed. */
export interface Position {
  /** the newest checkpoint that was verified and continues all before */
  readonly note: Uint8Array;
  readonly size: number;
  /** entries below it were taken in */
  readonly next: number;
}

export interface SlotFact {
  readonly kind: "slot";
  readonly lot: string;
  readonly slot: number;
  /** of the certificate */
  readonly sha256: string;
  readonly index: number;
}

/** What an entry adds to what the monitor knows. */
export type Fact =
  | SlotFact
  | { readonly kind: "certificate"; readonly sha256: string; readonly index: number }
  | { readonly kind: "keys"; readonly ca: Uint8Array; readonly act: Uint8Array }
  /** another CA key of the party's, beside those before */
  | { readonly kind: "ca"; readonly ca: Uint8Array };

export interface SlotHolder {
  readonly party: string;
  readonly index: number;
  /** of its certificate */
  readonly sha256: string;
}

export interface WitnessMark {
  /** the newest checkpoint of the log that it is known to have cosigned, and when by its clock, in seconds */
  readonly size: number;
  readonly time?: number;
  /** since when the monitor has seen it behind, in milliseconds; absent: it isn't */
  readonly behindSince?: number;
}

/**
 * A monitor's memory: everything about devices is here, and nothing of it in the process. Each call is durable when it
 * resolves, and whole or not at all. One monitor uses it at a time.
 */
export interface MonitorStore {
  position(party: string): Promise<Position | undefined>;
  storeHead(party: string, head: { note: Uint8Array; size: number }): Promise<void>;
  /**
   * Takes entries in up to `next`, with what they add and what is wrong with them. A slot that another entry has stays
   * that one's, and what `reused` makes of it is raised with the rest: two ledgers may claim it at once.
   */
  take(
    party: string,
    next: number,
    found: { readonly facts: readonly Fact[]; readonly alarms: readonly Alarm[] },
    reused: (fact: SlotFact, holder: SlotHolder) => Alarm,
  ): Promise<void>;
  keys(party: string): Promise<{ ca: Uint8Array; act: Uint8Array } | undefined>;
  /** Every CA key that a party has had: it answers for what any of them signs. */
  caKeys(): Promise<{ party: string; ca: Uint8Array }[]>;
  certificate(sha256: string): Promise<{ party: string; index: number } | undefined>;
  witness(party: string, witness: string): Promise<WitnessMark | undefined>;
  storeWitness(party: string, witness: string, mark: WitnessMark): Promise<void>;
  /** Keeps it open; the first one of a name stands. */
  raise(alarm: Alarm): Promise<void>;
  /** Ends a condition. */
  settle(alarm: Pick<Alarm, "code" | "party" | "subject">): Promise<void>;
  /** Open alarms in the order in which they came; `fresh`: raised since the last time this was asked. */
  alarms(): Promise<(Alarm & { readonly since: Date; readonly fresh: boolean })[]>;
}
