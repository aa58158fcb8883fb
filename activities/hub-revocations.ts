import { ApplicationFailure } from "@temporalio/common";
import type { HubRevocationActivities } from "../contracts/hubs.ts";
import { errorCodeOf, isCountersignError } from "../lib/domain/errors.ts";
import { followRevocation } from "../services/hub/keep-out.ts";
import type { HubRegistry } from "../services/hub/registry.ts";
import type { Db } from "../store/db.ts";
import { noteTold, untoldSubjects } from "../store/hub-blocks.ts";
import { withFailures } from "./failures.ts";

export interface HubRevocationDeps {
  readonly db: Db;
  readonly hubs: ReadonlyMap<string, HubRegistry>;
  readonly onFault: (hub: string, subject: string, error: unknown) => void;
}

const CHUNK = 64;
const AT_ONCE = 4;
/** No subject is begun later: what is under way ends within the activity's time. */
const BUDGET_MS = 30_000;
/** A hub that is away is away for all of them. */
const MOST_FAULTS = 4;
/** What the hub said no to is asked again by the next look at it. */
const REFUSED_AGAIN_MS = 300_000;

export function hubRevocationActivities({ db, hubs, onFault }: HubRevocationDeps): HubRevocationActivities {
  return withFailures<HubRevocationActivities>({
    async tellHubRevocations({ hub }) {
      const registry = hubs.get(hub);
      // Out of the configuration since: what it wasn't told stays to be told.
      if (registry === undefined) return { left: false };
      const began = Date.now();
      const open = await untoldSubjects(db, hub, new Date(began - REFUSED_AGAIN_MS), CHUNK);
      const faults: unknown[] = [];
      const queue = open.values();
      let unfinished = false;
      await Promise.all(
        Array.from({ length: AT_ONCE }, async () => {
          for (const one of queue) {
            try {
              const { left } = await followRevocation(db, hub, registry, one, began + BUDGET_MS);
              if (left) unfinished = true;
              else await noteTold(db, hub, one.steps);
            } catch (error) {
              onFault(hub, one.subject, error);
              const refused = isAnswer(error);
              const message = error instanceof Error ? error.message : String(error);
              if (!refused) faults.push(error);
              await noteTold(db, hub, one.steps, { code: errorCodeOf(error), message, refused });
            }
            if (throttled(faults) || faults.length >= MOST_FAULTS || Date.now() - began > BUDGET_MS) return;
          }
        }),
      );
      if (faults.length > 0) throw again(faults.find((one) => throttled([one])) ?? faults[0]);
      return { left: unfinished || open.length === CHUNK || Date.now() - began > BUDGET_MS };
    },
  });
}

/** The hub's no to this one subject; being kept out, as by a key that has changed, isn't one. */
function isAnswer(error: unknown): boolean {
  return isCountersignError(error) && ["hub-refused", "already-exists", "state-conflict"].includes(error.code);
}

function throttled(faults: readonly unknown[]): boolean {
  return faults.some((error) => isCountersignError(error) && error.details["retryAfterSeconds"] !== undefined);
}

/** Whatever keeps us from the hub is tried again: a revocation isn't given up for a wrong key or a missing file. */
function again(error: unknown): unknown {
  if (!isCountersignError(error) || !["invalid", "refused", "unverified"].includes(error.kind)) return error;
  const { code, message } = error;
  return ApplicationFailure.create({ type: code, message, nonRetryable: false, cause: error });
}
