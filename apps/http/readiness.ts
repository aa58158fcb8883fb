import type { ErrorCode } from "../../lib/domain/error-codes.ts";
import { CountersignError, errorCodeOf } from "../../lib/domain/errors.ts";
import type { HttpsServer } from "./server.ts";

/** One thing that a site or the hub stands on. Holds no secret and no address: `/readyz` shows it to anybody. */
export interface ComponentState {
  /** `database`, `workflows`, `token factory-y`, `issuing process 1` */
  readonly name: string;
  /** `degraded`: it answers again after failures, or is being tried */
  readonly state: "up" | "degraded" | "down";
  /** why it isn't up */
  readonly code?: ErrorCode;
  readonly since?: string;
}

interface Readiness {
  /** false when any component is down */
  readonly ok: boolean;
  readonly components: readonly ComponentState[];
}

const KEEP_MS = 500;

/** One look for all who ask at about the same time: the endpoint is open to everybody, and a look asks the token. */
export function sharedLook(look: () => Promise<readonly ComponentState[]>): () => Promise<Readiness> {
  let last: Promise<Readiness> | undefined;
  return () => {
    if (last !== undefined) return last;
    last = look().then((components) => ({ ok: components.every(({ state }) => state !== "down"), components }));
    const forget = (): void => void (last = undefined);
    last.then(() => setTimeout(forget, KEEP_MS).unref(), forget);
    return last;
  };
}

/** `/healthz`: the process runs. `/readyz`: what it stands on, by component; 503 when one is down. */
export function registerReadiness(app: HttpsServer, components: () => Promise<readonly ComponentState[]>): void {
  app.get("/healthz", async () => ({ ok: true }));
  const readiness = sharedLook(components);
  app.get("/readyz", async (_request, reply) => {
    const state = await readiness();
    return reply.code(state.ok ? 200 : 503).send(state);
  });
}

/** What hasn't answered by then counts as down: who asks for readiness gives up not much later. */
const ANSWER_MS = 3_000;

/** Never throws: what doesn't answer in time is down. */
export async function probed(name: string, ask: () => Promise<unknown>): Promise<ComponentState> {
  try {
    await withinTime(ask());
    return { name, state: "up" };
  } catch (error) {
    return { name, state: "down", code: reasonOf(error) };
  }
}

/** @throws CountersignError `timeout` */
export async function withinTime<T>(asked: Promise<T>): Promise<T> {
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

/** What isn't ours (a driver's error) only says that the component can't be reached. */
function reasonOf(error: unknown): ErrorCode {
  const code = errorCodeOf(error);
  return code === "internal" ? "component-unreachable" : code;
}
