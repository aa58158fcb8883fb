import type { DeviceFacts } from "../../lib/records/group-query.ts";
import type { Link } from "./registry.ts";

/** A connection that can be ended from outside. */
export interface Connection {
  destroy(): void;
  once(event: "close", listener: () => void): unknown;
  readonly destroyed: boolean;
}

export interface LiveEntry {
  readonly deviceId: string;
  readonly connection: Connection;
  /** its validated path, leaf first; undefined while it is judged */
  path: readonly Link[] | undefined;
  /** what its chain says */
  ofChain: DeviceFacts;
  /** what its groups are told by: its chain, and its passport if there is one */
  facts: DeviceFacts;
  /** the database has let it in */
  admitted: boolean;
  /** something about its device changed before that was known here */
  touched: boolean;
}

/**
 * The connections of this process, from the moment their device is judged: what is revoked while it comes in must find
 * it here.
 */
export class LiveDevices {
  readonly #byDevice = new Map<string, Set<LiveEntry>>();

  enter(deviceId: string, connection: Connection): LiveEntry {
    const entry: LiveEntry = {
      deviceId,
      connection,
      path: undefined,
      ofChain: {},
      facts: {},
      admitted: false,
      touched: false,
    };
    if (connection.destroyed) return entry;
    let entries = this.#byDevice.get(deviceId);
    if (entries === undefined) this.#byDevice.set(deviceId, (entries = new Set()));
    entries.add(entry);
    connection.once("close", () => this.leave(entry));
    return entry;
  }

  /** Also for one that is refused, which must not hold its place until it hangs up. */
  leave(entry: LiveEntry): void {
    const entries = this.#byDevice.get(entry.deviceId);
    entries?.delete(entry);
    if (entries?.size === 0) this.#byDevice.delete(entry.deviceId);
  }

  ids(): string[] {
    return [...this.#byDevice.keys()];
  }

  of(deviceId: string): readonly LiveEntry[] {
    return [...(this.#byDevice.get(deviceId) ?? [])];
  }

  *entries(): Generator<LiveEntry> {
    for (const entries of this.#byDevice.values()) yield* entries;
  }
}
