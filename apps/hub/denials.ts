/**
 * Counts refusals by a key (a source address, a certificate) in fixed windows, so that a client that retries every
 * 100 ms costs neither a path validation nor a log line each time. Bounded: the oldest keys are forgotten first.
 */
export class DenialWindow {
  readonly #limit: number;
  readonly #windowMs: number;
  readonly #now: () => number;
  readonly #seen = new Map<string, { since: number; count: number }>();

  constructor(options: { limit: number; windowMs: number; now?: () => number }) {
    this.#limit = options.limit;
    this.#windowMs = options.windowMs;
    this.#now = options.now ?? Date.now;
  }

  /** True when the key has used up its refusals in the current window. */
  exceeded(key: string): boolean {
    const entry = this.#current(key);
    return entry !== undefined && entry.count >= this.#limit;
  }

  /** Counts one refusal; returns how many there were in this window, this one included. */
  add(key: string): number {
    const entry = this.#current(key) ?? { since: this.#now(), count: 0 };
    entry.count++;
    this.#seen.delete(key);
    this.#seen.set(key, entry);
    if (this.#seen.size > MAX_KEYS) {
      const oldest = this.#seen.keys().next().value;
      if (oldest !== undefined) this.#seen.delete(oldest);
    }
    return entry.count;
  }

  forget(key: string): void {
    this.#seen.delete(key);
  }

  #current(key: string): { since: number; count: number } | undefined {
    const entry = this.#seen.get(key);
    if (entry === undefined) return undefined;
    if (this.#now() - entry.since < this.#windowMs) return entry;
    this.#seen.delete(key);
    return undefined;
  }
}

const MAX_KEYS = 10_000;

/** Connections that nobody is admitted on yet. */
export class PendingConnections {
  readonly #ports = new Map<string, Set<number | undefined>>();
  /** by source and port, in the order in which they came */
  readonly #sockets = new Map<string, { destroy(): unknown }>();

  get size(): number {
    return this.#sockets.size;
  }

  of(source: string): number {
    return this.#ports.get(source)?.size ?? 0;
  }

  /** Taken off the list: it is about to go. */
  oldest(): { destroy(): unknown } | undefined {
    for (const [name, socket] of this.#sockets) {
      this.#sockets.delete(name);
      return socket;
    }
    return undefined;
  }

  add(source: string, port: number | undefined, socket: { destroy(): unknown }): void {
    let ports = this.#ports.get(source);
    if (ports === undefined) this.#ports.set(source, (ports = new Set()));
    ports.add(port);
    this.#sockets.set(`${source} ${port}`, socket);
  }

  /** Admitted, or gone. */
  settle(source: string, port: number | undefined): void {
    this.#sockets.delete(`${source} ${port}`);
    const ports = this.#ports.get(source);
    ports?.delete(port);
    if (ports?.size === 0) this.#ports.delete(source);
  }
}
