import type { ActRef } from "../../records/primitives.ts";
import { doubles, shorts } from "./packed/column.ts";
import { DigestTable } from "./packed/digest-table.ts";

/** Every act that was looked at, by its leaf hash, in some 50 bytes: which ledger holds it, and what time it claims. */
export class SeenActs {
  readonly #hashes = new DigestTable();
  readonly #logs = shorts();
  readonly #times = doubles();
  readonly #origins: string[] = [];

  /** The act's row, or -1. An act names its own ledger, so its leaf hash is one ledger's alone. */
  find({ origin, leafHash }: ActRef): number {
    const row = this.#hashes.find(leafHash);
    return row >= 0 && this.origin(row) === origin ? row : -1;
  }

  has(ref: ActRef): boolean {
    return this.find(ref) >= 0;
  }

  /** @param time as claimed, in milliseconds */
  add({ origin, leafHash }: ActRef, time: number): number {
    let log = this.#origins.indexOf(origin);
    if (log < 0) log = this.#origins.push(origin) - 1;
    const row = this.#hashes.add(leafHash);
    this.#logs.set(row, log);
    this.#times.set(row, time);
    return row;
  }

  origin(row: number): string {
    return this.#origins[this.#logs.get(row)]!;
  }

  leafHash(row: number): string {
    return this.#hashes.hex(row);
  }

  /** As claimed, in milliseconds. */
  time(row: number): number {
    return this.#times.get(row);
  }
}
