import { CountersignError } from "../lib/domain/errors.ts";
import { isRefusal } from "./errors.ts";
import type { HsmLimits } from "./limits.ts";

/** `closed`: asked. `open`: not asked until the time has come. `half-open`: one request tries it. */
export type BreakerState = "closed" | "open" | "half-open";

/** One request's leave to ask the token; it says once how that went. */
export interface Pass {
  succeeded(): void;
  /** Counts only when the token is at fault. */
  failed(error: CountersignError): void;
}

/** Retry times double this often at most. */
const MAX_DOUBLINGS = 3;

/**
 * Circuit breaker of one token: after some failures in a row nobody asks it any more, and everyone is told at once why.
 * From time to time one request goes through as a probe; when it succeeds, all do again.
 */
export class Breaker {
  readonly #token: string;
  readonly #limits: Pick<HsmLimits, "failures" | "retryAfterMs">;
  readonly #now: () => number;
  readonly #onOpen: (why: CountersignError) => void;
  #failures = 0;
  #openings = 0;
  #openSince: number | undefined;
  #retryAt = 0;
  #probing = false;
  #last: { error: CountersignError; at: number } | undefined;

  /** @param onOpen told with what everyone is refused with from now on */
  constructor(
    token: string,
    limits: Pick<HsmLimits, "failures" | "retryAfterMs">,
    onOpen: (why: CountersignError) => void,
    now: () => number = Date.now,
  ) {
    this.#token = token;
    this.#limits = limits;
    this.#onOpen = onOpen;
    this.#now = now;
  }

  get state(): BreakerState {
    if (this.#openSince === undefined) return "closed";
    return this.#probing || this.#now() >= this.#retryAt ? "half-open" : "open";
  }

  /** Failures since the last success. */
  get failures(): number {
    return this.#failures;
  }

  get openSince(): Date | undefined {
    return this.#openSince === undefined ? undefined : new Date(this.#openSince);
  }

  get lastError(): { code: string; message: string; at: Date } | undefined {
    if (this.#last === undefined) return undefined;
    const { error, at } = this.#last;
    return { code: error.code, message: error.message, at: new Date(at) };
  }

  /** @throws CountersignError the last failure's code, while the token isn't asked */
  enter(): Pass {
    const probe = this.#openSince !== undefined;
    if (probe) {
      if (this.#probing || this.#now() < this.#retryAt) throw this.#refusal();
      this.#probing = true;
    }
    let told = false;
    const once = (): boolean => {
      const first = !told;
      told = true;
      if (first && probe) this.#probing = false;
      return first;
    };
    return {
      succeeded: () => {
        if (once()) this.#close();
      },
      failed: (error) => {
        if (once() && isTokensFault(error)) this.#count(error, probe);
      },
    };
  }

  #close(): void {
    this.#failures = 0;
    this.#openings = 0;
    this.#openSince = undefined;
  }

  #count(error: CountersignError, probe: boolean): void {
    this.#failures++;
    this.#last = { error, at: this.#now() };
    // A request that set out before the circuit opened changes nothing once it is.
    if (this.#openSince !== undefined ? !probe : this.#failures < this.#limits.failures) return;
    this.#openSince ??= this.#now();
    this.#retryAt = this.#now() + this.#limits.retryAfterMs * 2 ** Math.min(this.#openings++, MAX_DOUBLINGS);
    this.#onOpen(this.#refusal());
  }

  #refusal(): CountersignError {
    const { error } = this.#last!;
    const seconds = Math.max(0, (this.#retryAt - this.#now()) / 1000).toFixed(1);
    // A wrong signature is our own alarm; those who are refused meanwhile only lack their token.
    const code = error.kind === "unavailable" ? error.code : "hsm-unavailable";
    return new CountersignError(
      code,
      `token "${this.#token}" is out of order since ${new Date(this.#openSince!).toISOString()} and is tried again ` +
        `in ${seconds} s, without a restart; its last failure: ${error.message}`,
      { cause: error, details: { token: this.#token, refused: "circuit-open" } },
    );
  }
}

/** Refusals of our own, faults of the request and keys that aren't there say nothing about whether the token answers. */
function isTokensFault(error: CountersignError): boolean {
  if (isRefusal(error) || (error.code === "hsm-key-missing" && error.details["ckr"] === undefined)) return false;
  return error.kind === "unavailable" || error.code === "hsm-signature-invalid";
}
