import { setTimeout as sleep } from "node:timers/promises";

/** Something that is kept for a while. */
export interface Pruning {
  /** for people and logs: `done batches` */
  readonly name: string;
  /**
   * Takes away what is due among the next `rows` rows, in one short transaction, and says how many went and whether there
   * may be more. Safe beside itself.
   */
  readonly step: (rows: number) => Promise<{ gone: number; more: boolean }>;
}

const ROWS = 1_000;
const STEPS = 200;
/** Between two steps: whoever issues goes first. */
const PAUSE_MS = 50;

/**
 * One round over everything, in steps of bounded size; what is left waits for the next round.
 * @returns rows that went, by name; without those of which none did
 * @throws what the database throws
 */
export async function prune(
  prunings: readonly Pruning[],
  { rows = ROWS, steps = STEPS, pauseMs = PAUSE_MS, signal = new AbortController().signal } = {},
): Promise<Record<string, number>> {
  const gone: Record<string, number> = {};
  for (const { name, step } of prunings) {
    for (let i = 0; i < steps && !signal.aborted; i++) {
      const done = await step(rows);
      if (done.gone > 0) gone[name] = (gone[name] ?? 0) + done.gone;
      if (!done.more) break;
      await sleep(pauseMs, undefined, { signal }).catch(() => undefined);
    }
  }
  return gone;
}

const FIRST_MS = 5 * 60_000;
const EVERY_MS = 3_600_000;

/** A round soon after the start, and hourly. Gives the way to stop. */
export function keepPruned(
  prunings: readonly Pruning[],
  told: { done: (gone: Record<string, number>) => void; fault: (error: unknown) => void },
): () => Promise<void> {
  const stopping = new AbortController();
  let running: Promise<void> | undefined;
  const round = (): void => {
    running ??= prune(prunings, { signal: stopping.signal })
      .then((gone) => {
        if (Object.keys(gone).length > 0) told.done(gone);
      }, told.fault)
      .finally(() => (running = undefined));
  };
  const first = setTimeout(round, FIRST_MS);
  const timer = setInterval(round, EVERY_MS);
  return async () => {
    clearTimeout(first);
    clearInterval(timer);
    stopping.abort();
    await running;
  };
}
