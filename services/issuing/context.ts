import type { CaKey } from "../../hsm/index.ts";
import type { Db } from "../../store/db.ts";
import type { Acts } from "../ledger/index.ts";
import type { UnderWay } from "./under-way.ts";

/** A wait for the ledger that takes longer fails, as what it is, and is tried again. */
export const INCLUSION_TIMEOUT_MS = 30_000;
const WAITING_BEAT_MS = 2_000;

/** What recording and issuing for lots needs of its site. */
export interface IssuingContext {
  readonly db: Db;
  readonly acts: Acts;
  /** this site's party */
  readonly party: string;
  /**
   * The site's online CA key with this id: the present one, or an earlier one under which something was intended.
   * @throws CountersignError `hsm-key-missing` where the site issues nothing
   */
  readonly caKey: (caKeyId: string) => Promise<CaKey>;
  /** where this site's CA publishes its CRL, http */
  readonly crlUrl?: (caKeyId: string) => string;
  readonly now?: () => Date;
  /** where batches join work of their lot; absent: each goes by way of its workflow */
  readonly underWay?: UnderWay;
  /** how long to wait for a signed checkpoint; default {@link INCLUSION_TIMEOUT_MS} */
  readonly inclusionTimeoutMs?: number;
  /** Tests stop the work at these points; nothing else sets them. */
  readonly seam?: IssuingSeam;
}

export interface IssuingSeam {
  /** T1 is committed, nothing is signed. */
  readonly afterIntents?: () => Promise<void> | void;
  /** Certificates are signed, none is stored. */
  readonly afterSigning?: () => Promise<void> | void;
  /** T2 is committed, nothing is released. */
  readonly afterStored?: () => Promise<void> | void;
}

/** Tells that the work goes on; an activity heartbeats with it. */
export type OnProgress = () => void;

/**
 * Waits until a signed checkpoint covers these acts, and tells meanwhile that somebody waits.
 * @throws CountersignError `timeout`, and what `Acts.waitIncluded` throws
 */
export async function waitForLedger(
  { acts, inclusionTimeoutMs }: IssuingContext,
  retryKeys: readonly string[],
  onProgress: OnProgress | undefined,
): Promise<void> {
  await beating(onProgress, () =>
    acts.waitIncluded(retryKeys, { timeoutMs: inclusionTimeoutMs ?? INCLUSION_TIMEOUT_MS }),
  );
}

/** Tells of progress for as long as `work` takes. It must have an end of its own. */
export async function beating<T>(onProgress: OnProgress | undefined, work: () => Promise<T>): Promise<T> {
  const beat = setInterval(() => onProgress?.(), WAITING_BEAT_MS);
  try {
    return await work();
  } finally {
    clearInterval(beat);
  }
}

/** The name under which everything of one lot is recorded: the id of its workflow. */
export const lotWorkflowId = (lot: string): string => `lot/${lot}`;
export const builtStep = (device: string): string => `built/${device}`;
export const certifiedStep = (device: string, profile: string): string => `certified/${profile}/${device}`;
