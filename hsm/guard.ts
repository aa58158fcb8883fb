import type { CountersignError } from "../lib/domain/errors.ts";
import type { Breaker } from "./breaker.ts";
import { type HsmContext, hsmError, isSessionLost } from "./errors.ts";
import type { TokenLink } from "./token-link.ts";

/** The second may still fall into the moment in which others find out that everything is lost; no more than that. */
const ATTEMPTS = 3;

/**
 * Whatever is asked of a token goes through here: not at all while its circuit is open; again when sessions, login or
 * handles were lost (whoever used them has told the link), on new ones; with the outcome told to the breaker. A second signature of the same bytes does no
 * harm. A call that timed out isn't repeated: who asked has waited long enough.
 */
export class HsmGuard {
  readonly #link: TokenLink;
  readonly #breaker: Breaker;
  #repeats = 0;

  constructor(link: TokenLink, breaker: Breaker) {
    this.#link = link;
    this.#breaker = breaker;
  }

  /** Attempts beyond the first ones: of a signature, the token may have made one each time. */
  get repeats(): number {
    return this.#repeats;
  }

  /** @throws CountersignError the breaker's refusal, or what the last attempt failed of */
  async run<T>(context: HsmContext, attempt: () => Promise<T>): Promise<T> {
    const pass = this.#breaker.enter();
    try {
      const result = await this.#attempts(attempt);
      pass.succeeded();
      this.#link.answered();
      return result;
    } catch (error) {
      const typed: CountersignError = hsmError(error, { token: this.#link.label, ...context });
      pass.failed(typed);
      throw typed;
    }
  }

  async #attempts<T>(attempt: () => Promise<T>): Promise<T> {
    for (let left = ATTEMPTS - 1; ; left--) {
      try {
        return await attempt();
      } catch (error) {
        if (left === 0 || !isSessionLost(error)) throw error;
        this.#repeats++;
        if (left < ATTEMPTS - 1) await this.#link.recover(error);
      }
    }
  }
}
