/**
 * Follows parties' ledgers from outside: each round takes in what is new in each of them, and says what is wrong. What
 * it knows is in its store; the process holds one bundle of entries a ledger. A ledger that is out of reach is tried
 * again in the next round, and holds none of the others up.
 */
import { isCountersignError } from "../../domain/errors.ts";
import type { Certificate } from "../../pki/certificate.ts";
import { followLog, type FollowContext, type MonitoredLog } from "./follow.ts";
import { checkSeen, type SeenCertificate } from "./seen.ts";
import type { Alarm } from "./store.ts";
import { checkWitnesses, type WitnessView } from "./witness-lag.ts";

export interface MonitorOptions extends FollowContext {
  readonly logs: readonly MonitoredLog[];
  /** for how long a witness may leave something uncosigned; default 5 minutes */
  readonly lagMs?: number;
  readonly now?: () => Date;
}

export interface LedgerView {
  readonly party: string;
  readonly origin: string;
  /** `followed`: to its newest checkpoint; `refused`: see the alarms; `unreachable`: see `error` */
  readonly state: "followed" | "refused" | "unreachable";
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

/** @throws what the store throws, and the reason of an aborted `signal` */
export async function monitorRound(
  options: MonitorOptions,
  certificates: readonly Certificate[] = [],
): Promise<MonitorRound> {
  const { store, logs, verify, lagMs = DEFAULT_LAG_MS } = options;
  const now = (options.now?.() ?? new Date()).getTime();
  const followed = await Promise.all(
    logs.map(async (monitored) => {
      const { party, log } = monitored;
      const before = (await store.position(party))?.next ?? 0;
      const view = async (state: LedgerView["state"], error?: string): Promise<LedgerView> => {
        const entries = (await store.position(party))?.next ?? 0;
        const why = error === undefined ? {} : { error };
        return { party, origin: log.name, state, entries, fresh: entries - before, ...why };
      };
      try {
        const reader = await followLog(monitored, options);
        if (reader === undefined) return { view: await view("refused"), witnesses: [] };
        const witnesses = await checkWitnesses(reader, monitored, { store, verify, now, lagMs });
        return { view: await view("followed"), witnesses };
      } catch (error) {
        if (options.signal?.aborted === true || !isCountersignError(error) || error.kind !== "unavailable") throw error;
        return { view: await view("unreachable", error.message), witnesses: [] };
      }
    }),
  );
  const ledgers = followed.map(({ view }) => view);
  const current = new Set(ledgers.filter(({ state }) => state === "followed").map(({ party }) => party));
  const seen = await checkSeen(certificates, current, { store, verify });
  return { ledgers, witnesses: followed.flatMap(({ witnesses }) => witnesses), seen, alarms: await store.alarms() };
}
