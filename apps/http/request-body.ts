import type { IncomingMessage } from "node:http";
import { CountersignError } from "../../lib/domain/errors.ts";

const LINE_FEED = 0x0a;
/** How long a refused sender may go on before it is cut off: an answer is read only by who isn't cut off at once. */
const DRAIN_MS = 5_000;

/** Reads a request's body by parts, each with a limit and a deadline of its own: nothing is held that isn't asked for. */
export class RequestBody {
  readonly #request: IncomingMessage;
  readonly #parts: AsyncIterator<Uint8Array>;
  #rest: Uint8Array = new Uint8Array(0);

  constructor(request: IncomingMessage) {
    this.#request = request;
    this.#parts = request.iterator({ destroyOnReturn: false }) as AsyncIterator<Uint8Array>;
  }

  /**
   * The first line, without its line feed.
   * @throws CountersignError `input-too-large` when there is none within `limit` bytes, `input-invalid`, `timeout`
   */
  line(limit: number, timeoutMs: number): Promise<Uint8Array> {
    return this.#within(timeoutMs, async () => {
      let line = this.#rest;
      for (;;) {
        const end = line.indexOf(LINE_FEED);
        if (end > limit || (end < 0 && line.length > limit)) {
          throw new CountersignError("input-too-large", `the first line has at most ${limit} bytes`);
        }
        if (end >= 0) {
          this.#rest = line.subarray(end + 1);
          return line.slice(0, end);
        }
        const part = await this.#next();
        if (part === undefined) throw new CountersignError("input-invalid", "the request ends within its first line");
        line = Buffer.concat([line, part]);
      }
    });
  }

  /**
   * All that follows, `size` bytes at most.
   * @throws CountersignError `input-too-large`, `input-invalid`, `timeout`
   */
  rest(size: number, timeoutMs: number): Promise<Uint8Array> {
    return this.#within(timeoutMs, async () => {
      const body = Buffer.alloc(size);
      let length = 0;
      for (let part: Uint8Array | undefined = this.#rest; part !== undefined; part = await this.#next()) {
        if (length + part.length > size) throw new CountersignError("input-too-large", `expected ${size} bytes`);
        body.set(part, length);
        length += part.length;
      }
      return body.subarray(0, length);
    });
  }

  /** After a refusal: throws away what still comes, for a while, and then the connection. */
  discard(): void {
    const request = this.#request;
    if (request.complete) return;
    void this.#parts.return?.();
    request.on("error", () => undefined).resume();
    const cut = setTimeout(() => request.destroy(), DRAIN_MS);
    request.once("close", () => clearTimeout(cut)).once("end", () => clearTimeout(cut));
  }

  async #next(): Promise<Uint8Array | undefined> {
    try {
      const next = await this.#parts.next();
      return next.done === true ? undefined : next.value;
    } catch (cause) {
      throw new CountersignError("input-invalid", "the connection ended within the request", { cause });
    }
  }

  async #within<T>(timeoutMs: number, read: () => Promise<T>): Promise<T> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_resolve, reject) => {
      const message = `the request didn't arrive within ${timeoutMs / 1000} seconds`;
      timer = setTimeout(() => reject(new CountersignError("timeout", message)), timeoutMs);
    });
    const reading = read();
    reading.catch(() => undefined);
    try {
      return await Promise.race([reading, late]);
    } finally {
      clearTimeout(timer);
    }
  }
}
