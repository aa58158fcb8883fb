import type { ErrorCode } from "../../lib/domain/error-codes.ts";

/** One thing that a site stands on. Holds no secret and no address: `/readyz` shows it to anybody. */
export interface ComponentState {
  /** `database`, `workflows`, `token factory-y`, `issuing process 1` */
  readonly name: string;
  /** `degraded`: it answers again after failures, or is being tried */
  readonly state: "up" | "degraded" | "down";
  /** why it isn't up */
  readonly code?: ErrorCode;
  readonly since?: string;
}

export interface Readiness {
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
