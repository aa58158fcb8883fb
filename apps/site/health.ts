import type { Token, TokenHealth } from "../../hsm/index.ts";
import type { ErrorCode } from "../../lib/domain/error-codes.ts";
import { expiring } from "../../services/parties/expiring.ts";
import { siteCounts } from "../../store/counts.ts";
import type { Db } from "../../store/db.ts";
import { type ComponentState, probed, withinTime } from "../http/readiness.ts";
import type { IssuingProcesses } from "./issuing/issuing-processes.ts";
import { metricsText } from "./metrics.ts";

export interface HealthParts {
  readonly db: Db;
  /** asks Temporal */
  readonly workflows: () => Promise<unknown>;
  readonly token: Pick<Token, "hasKey" | "health">;
  readonly caToken: Pick<Token, "hasKey" | "health"> | undefined;
  readonly processes: Pick<IssuingProcesses, "health"> | undefined;
  readonly identity: Parameters<typeof expiring>[1];
}

/** Asks everything that a site stands on. Never throws: what doesn't answer in time is down. */
export async function siteComponents(parts: HealthParts): Promise<ComponentState[]> {
  const { db, workflows, token, caToken, processes } = parts;
  return await Promise.all([
    probed("database", () => db.query("SELECT 1")),
    probed("workflows", workflows),
    askedToken(token, "act"),
    ...(caToken === undefined ? [] : [askedToken(caToken, "ca")]),
    ...(processes?.health() ?? []).map(async (process, i) => issuing(`issuing process ${i + 1}`, process)),
  ]);
}

/** What the database knows is left out while it doesn't answer: then what the tokens do is asked for all the more. */
export async function siteMetrics({ db, token, caToken, processes, identity }: HealthParts): Promise<string> {
  const [counts, ends] = await Promise.all([
    withinTime(siteCounts(db)).catch(() => undefined),
    withinTime(expiring(db, identity)).catch(() => undefined),
  ]);
  return metricsText({
    tokens: [token, ...(caToken === undefined ? [] : [caToken])].map((one) => one.health()),
    processes: processes?.health() ?? [],
    counts,
    ends,
    now: new Date(),
  });
}

/** By its breaker, after a question that would close the circuit again. */
async function askedToken(token: Pick<Token, "hasKey" | "health">, key: string): Promise<ComponentState> {
  const { state, code } = await probed("", () => token.hasKey(key));
  const told = tokenState(`token ${token.health().token}`, token.health());
  return state === "down" && told.state === "up" ? { ...told, state: "degraded", ...(code ? { code } : {}) } : told;
}

function issuing(name: string, { token }: { token: TokenHealth | undefined }): ComponentState {
  // It hasn't said anything yet: it is just starting.
  return token === undefined ? { name, state: "degraded" } : { ...tokenState(name, token), name };
}

const STATES = { closed: "up", "half-open": "degraded", open: "down" } as const;

function tokenState(name: string, { circuit, openSince, lastError }: TokenHealth): ComponentState {
  if (circuit === "closed") return { name, state: "up" };
  return {
    name,
    state: STATES[circuit],
    ...(lastError === undefined ? {} : { code: lastError.code as ErrorCode }),
    ...(openSince === undefined ? {} : { since: openSince.toISOString() }),
  };
}
