import type { Layout } from "../lib/firmware/format.ts";
import { defineQuery, defineSignal, defineUpdate } from "@temporalio/workflow";
import type { Refusal } from "./parties.ts";

/**
 * What crosses Temporal for lots and devices. References only: CSRs, certificates and lists stay in the site's database
 * and histories carry ids. Every activity is idempotent; a refusal is a non-retryable ApplicationFailure whose type is
 * the error code.
 */

export const lotWorkflowIds = {
  lot: (id: string) => `lot/${id}`,
  handoff: (id: string) => `handoff/${id}`,
  installation: (batch: string) => `installation/${batch}`,
  injection: (run: string) => `injection/${run}`,
};

export type Outcome = { ok: true } | { ok: false; error: Refusal };

export interface LayoutRequest extends Layout {
  format: string;
  template: string;
}
/** A lot as an operator asks for it; checked by the activity that opens it. */
export interface LotRequest {
  id: string;
  slots: number;
  issuer: string;
  profile: string;
  layouts: LayoutRequest[];
  /** the lot's choices within the profile */
  certificate?: { days?: number | "no-expiry" | undefined; hardwareType?: string | undefined } | undefined;
}

export type LotBatchKind = "built" | "certify";
export interface LotBatch {
  id: string;
  kind: LotBatchKind;
  /** so small that it is worked on together with others; absent of any other */
  small?: true;
}

/** Groups of batches of one lot in work at once: while one is at its ledger or its HSM, another is checked and stored. */
export const LANES = 3;

export interface ProductionLotInput {
  lot: string;
  /** opens the lot; absent where a handoff opened it, and in every later run */
  request?: LotRequest;
  /** default {@link LANES} */
  lanes?: number;
  /** ends a run early; for tests, the server's own suggestion serves otherwise */
  batchesPerRun?: number;
  /** batches whose ids a run holds at most; for tests */
  queueLimit?: number;
  /** taken over from the run before */
  queue?: LotBatch[];
  /** more wait in the database than the run before had in hand */
  behind?: boolean;
  done?: number;
}

/** Batches that are stored and wait; gathered, so that one signal brings many. */
export const batchesArrived = defineSignal<[LotBatch[]]>("batchesArrived");
/** Resolves when the lot is open, or with why it isn't. */
export const lotOpened = defineUpdate<Outcome, []>("lotOpened");
export interface LotProgress {
  /** in the workflow's hands */
  queued: number;
  /** more wait in the database */
  behind: boolean;
  running: number;
  done: number;
}
export const lotProgress = defineQuery<LotProgress>("lotProgress");

export interface BatchRefusal {
  batch: string;
  refused: Refusal;
}

export interface BatchGroup {
  /** others of this lot may join meanwhile; absent in histories of before */
  lot?: string;
  /** others wait in the workflow: none joins for longer than these take */
  queued?: boolean;
  /** all of these are */
  small?: true;
  batches: string[];
}

export interface LotActivities {
  openLot(input: { request: LotRequest }): Promise<void>;
  /** Works on batches side by side; gives the refusals, by batch. A batch that is done already costs a look. */
  recordBuilt(input: BatchGroup): Promise<BatchRefusal[]>;
  issueBatches(input: BatchGroup): Promise<BatchRefusal[]>;
  /** The lot's oldest batches that nobody finished, at most `limit`. */
  waitingBatches(input: { lot: string; limit: number }): Promise<LotBatch[]>;
  /** Answers what is left of a batch with one refusal: nothing more will come of it. */
  refuseBatch(input: { batch: string; refused: Refusal }): Promise<void>;
}

export interface HandoffInput {
  handoff: string;
  direction: "out" | "in";
}
/** The taker's signed receipt has been stored in the inbox; `message` is its id. */
export const receiptArrived = defineSignal<[{ message: string }]>("receiptArrived");
/** The operator has ordered the receipt, and said what arrived; resolves when the devices are in custody here. */
export const receiveHandoff = defineUpdate<Outcome, []>("receiveHandoff");

export interface HandoffActivities {
  /** `closed`: the receipt is here already. */
  recordRelease(input: { handoff: string }): Promise<{ closed: boolean }>;
  closeRelease(input: { handoff: string; message: string }): Promise<void>;
  /** `received`: the devices are in custody already. */
  acceptOffer(input: { handoff: string }): Promise<{ received: boolean }>;
  refuseOffer(input: { handoff: string; refused: Refusal }): Promise<void>;
  /** Fixes what the operator's order says. */
  decideReceipt(input: { handoff: string }): Promise<void>;
  recordReceipt(input: { handoff: string }): Promise<void>;
}

export interface InjectionActivities {
  /** Injects the next devices of the run. */
  injectNext(input: { run: string }): Promise<{ finished: boolean }>;
}

export interface InstallationActivities {
  recordInstallations(input: { batch: string }): Promise<void>;
  refuseBatch(input: { batch: string; refused: Refusal }): Promise<void>;
}
