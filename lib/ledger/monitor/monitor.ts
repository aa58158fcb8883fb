/**
 * Follows parties' ledgers from outside: each round takes in what is new in each of them, and says what is wrong. What
 * it knows is in its store; the process holds one bundle of entries a ledger. A ledger that is out of reach is tried
 * again in the next round, and one that is slow or endless goes on there: none holds the others up for long.
 */
import { isCountersignError } from "../../domain/errors.ts";
import type { Certificate } from "../../pki/certificate.ts";
import { followLog, forOneRound, type FollowContext, type MonitoredLog } from "./follow.ts";
import { checkSeen, type SeenCertificate } from "./seen.ts";
import type { Alarm } from "./store.ts";
import { checkWitnesses, type WitnessView } from "./witness-lag.ts";

export interface MonitorOptions extends Omit<FollowContext, "until"> {
  readonly logs: readonly MonitoredLog[];
  /** for how long a witness may leave something uncosigned; default 5 minutes */
  readonly lagMs?: number;
  /** for how long one ledger may keep a round; what is left of it is the next one's; default 1 minute */
  readonly patienceMs?: number;
  readonly now?: () => Date;
}

export interface LedgerView {
  readonly party: string;
  readonly origin: string;
  /**
   * `followed`: to its newest checkpoint; `refused`: see the alarms; `behind`: there is more than this round had time for;
   * `unreachable`: see `error`
   */
  readonly state: "followed" | "refused" | "behind" | "unreachable";
  /** entries taken in so far, and of those in this round */
  readonly entries: number;
  readonly fresh: number;
  readonly error?: string;
}

export interface MonitorRound {
  readonly ledgers: readonly LedgerView[];
  readonly witnesses: readonly WitnessView[];
  readonly seen: readonly SeenCertificate[];
  /** everything that is wrong, in the order in which it was found; `fresh`: since the last round */
  readonly alarms: readonly (Alarm & { readonly since: Date; readonly fresh: boolean })[];
}

const DEFAULT_LAG_MS = 5 * 60_000;
const DEFAULT_PATIENCE_MS = 60_000;

/** @throws what the store throws, and the reason of an aborted `signal` */
export async function monitorRound(
  options: MonitorOptions,
  certificates: readonly Certificate[] = [],
): Promise<MonitorRound> {
  const { store, logs, verify, lagMs = DEFAULT_LAG_MS, patienceMs = DEFAULT_PATIENCE_MS } = options;
  const now = (options.now?.() ?? new Date()).getTime();
  const context: FollowContext = { ...options, until: performance.now() + patienceMs };
  const followed = await Promise.all(
    logs.map(async (served) => {
      const monitored = forOneRound(served, context);
      const { party, log } = monitored;
      const before = (await store.position(party))?.next ?? 0;
      const view = async (state: LedgerView["state"], error?: string): Promise<LedgerView> => {
        const entries = (await store.position(party))?.next ?? 0;
        const why = error === undefined ? {} : { error };
        return { party, origin: log.name, state, entries, fresh: entries - before, ...why };
      };
      try {
        const reader = await followLog(monitored, context);
        if (reader === undefined) return { view: await view("refused"), witnesses: [] };
        const witnesses = await checkWitnesses(reader, monitored, { store, verify, now, lagMs });
        return { view: await view("followed"), witnesses };
      } catch (error) {
        if (options.signal?.aborted === true || !isCountersignError(error) || error.kind !== "unavailable") throw error;
        const state = error.code === "timeout" ? "behind" : "unreachable";
        return { view: await view(state, error.message), witnesses: [] };
      }
    }),
  );
  const ledgers = followed.map(({ view }) => view);
  const current = new Set(ledgers.filter(({ state }) => state === "followed").map(({ party }) => party));
  const seen = await checkSeen(certificates, current, { store, verify });
  return { ledgers, witnesses: followed.flatMap(({ witnesses }) => witnesses), seen, alarms: await store.alarms() };
}
