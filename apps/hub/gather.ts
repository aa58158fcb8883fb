interface Waiting<Ask, Answer> {
  readonly ask: Ask;
  readonly bytes: number;
  readonly settle: (answer: Answer | Error) => void;
}

export interface GatherLimits {
  /** of one run */
  readonly most: number;
  /** of one run, where asks have a size */
  readonly mostBytes?: number;
}

/**
 * Asks the database once for what many ask at the same time: what comes while one run is under way goes into the next, so
 * that one asker waits for one commit and a thousand share it. One run at a time, in the order of asking.
 */
export class Gather<Ask, Answer> {
  readonly #run: (asks: readonly Ask[]) => Promise<readonly (Answer | Error)[]>;
  readonly #limits: GatherLimits;
  #waiting: Waiting<Ask, Answer>[] = [];
  #bytes = 0;
  #running: Promise<void> | undefined;

  /** @param run answers in the order of its asks, an Error for one that is refused; throws when nothing has happened */
  constructor(run: (asks: readonly Ask[]) => Promise<readonly (Answer | Error)[]>, limits: GatherLimits) {
    this.#run = run;
    this.#limits = limits;
  }

  /** Not yet in a run. */
  get waiting(): { readonly asks: number; readonly bytes: number } {
    return { asks: this.#waiting.length, bytes: this.#bytes };
  }

  /** @throws what its run threw, or answered for it */
  ask(ask: Ask, bytes = 0): Promise<Answer> {
    return new Promise((resolve, reject) => {
      const settle = (answer: Answer | Error): void => (answer instanceof Error ? reject(answer) : resolve(answer));
      this.#waiting.push({ ask, bytes, settle });
      this.#bytes += bytes;
      this.#running ??= this.#drain();
    });
  }

  /** Resolves when nothing waits any more. */
  async idle(): Promise<void> {
    while (this.#running !== undefined) await this.#running;
  }

  async #drain(): Promise<void> {
    // One turn of the event loop gathers what the same read brought.
    await new Promise(setImmediate);
    while (this.#waiting.length > 0) await this.#answer(this.#take());
    this.#running = undefined;
  }

  #take(): Waiting<Ask, Answer>[] {
    const { most, mostBytes = Number.POSITIVE_INFINITY } = this.#limits;
    let count = 0;
    let bytes = 0;
    for (const one of this.#waiting) {
      if (count === most || (count > 0 && bytes + one.bytes > mostBytes)) break;
      count++;
      bytes += one.bytes;
    }
    this.#bytes -= bytes;
    return this.#waiting.splice(0, count);
  }

  async #answer(batch: readonly Waiting<Ask, Answer>[]): Promise<void> {
    let answers: readonly (Answer | Error)[];
    try {
      answers = await this.#run(batch.map(({ ask }) => ask));
    } catch (cause) {
      // One whose content the database refuses must not take its neighbours down (SQLSTATE class 22, 23).
      if (batch.length > 1 && /^2[23]/.test(String((cause as { code?: unknown }).code))) {
        for (const one of batch) await this.#answer([one]);
        return;
      }
      const error = cause instanceof Error ? cause : new Error(String(cause));
      for (const { settle } of batch) settle(error);
      return;
    }
    for (const [i, { settle }] of batch.entries()) settle(answers[i] as Answer | Error);
  }
}
