import type { Token, TokenHealth } from "../../hsm/index.ts";
import type { ErrorCode } from "../../lib/domain/error-codes.ts";
import { CountersignError, errorCodeOf } from "../../lib/domain/errors.ts";
import { siteCounts } from "../../store/counts.ts";
import type { Db } from "../../store/db.ts";
import type { ComponentState } from "../gateway/readiness.ts";
import type { IssuingProcesses } from "./issuing/issuing-processes.ts";
import { metricsText } from "./metrics.ts";

export interface HealthParts {
  readonly db: Db;
  /** asks Temporal */
  readonly workflows: () => Promise<unknown>;
  readonly token: Pick<Token, "hasKey" | "health">;
  readonly caToken: Pick<Token, "hasKey" | "health"> | undefined;
  readonly processes: Pick<IssuingProcesses, "health"> | undefined;
}

/** What hasn't answered by then counts as down: who asks for readiness gives up not much later. */
const ANSWER_MS = 3_000;

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
export async function siteMetrics({ db, token, caToken, processes }: HealthParts): Promise<string> {
  return metricsText({
    tokens: [token, ...(caToken === undefined ? [] : [caToken])].map((one) => one.health()),
    processes: processes?.health() ?? [],
    counts: await withinTime(siteCounts(db)).catch(() => undefined),
  });
}

async function probed(name: string, ask: () => Promise<unknown>): Promise<ComponentState> {
  try {
    await withinTime(ask());
    return { name, state: "up" };
  } catch (error) {
    return { name, state: "down", code: reasonOf(error) };
  }
}

async function withinTime<T>(asked: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new CountersignError("timeout", "it didn't answer in time")), ANSWER_MS);
  });
  try {
    return await Promise.race([asked, late]);
  } finally {
    clearTimeout(timer);
  }
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

/** What isn't ours (a driver's error) only says that the component can't be reached. */
function reasonOf(error: unknown): ErrorCode {
  const code = errorCodeOf(error);
  return code === "internal" ? "component-unreachable" : code;
}
