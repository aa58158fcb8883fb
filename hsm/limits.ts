import { CountersignError } from "../lib/domain/errors.ts";

/** How long and how much a token's users wait before they are told that it is out of reach. */
export interface HsmLimits {
  /** a signature, or opening a session and logging in, takes longer: its session is given up; ms */
  callTimeoutMs: number;
  /** a signature has waited that long for a free session: it is refused; ms */
  waitTimeoutMs: number;
  /** signatures that may wait at once; the next one is refused at once */
  maxWaiting: number;
  /** failures in a row after which the token isn't asked any more */
  failures: number;
  /** how long it isn't asked, doubling up to eight times that while it stays out of order; ms */
  retryAfterMs: number;
}

/** The queue holds several batches of 256, which the slowest key (RSA-4096 in software, 40/s a session) works off. */
export const DEFAULT_LIMITS: HsmLimits = {
  callTimeoutMs: 5_000,
  waitTimeoutMs: 60_000,
  maxWaiting: 8_192,
  failures: 5,
  retryAfterMs: 500,
};

/** @throws CountersignError `input-invalid` */
export function limitsOf(given: Partial<HsmLimits> | undefined): HsmLimits {
  const limits = { ...DEFAULT_LIMITS, ...given };
  for (const [name, value] of Object.entries(limits)) {
    if (!Number.isInteger(value) || value < 1 || value > 3_600_000) {
      throw new CountersignError("input-invalid", `the HSM limit ${name} is 1 to 3600000, not ${value}`);
    }
  }
  return limits;
}
