import { equalBytes } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import type { VerifySignature } from "../../lib/domain/signing.ts";
import { ed25519Raw, KEY_TYPE, noteKey } from "../../lib/ledger/note.ts";
import { LogReader } from "../../lib/ledger/reader.ts";
import type { Queryable } from "../../store/db.ts";
import { readCheckpoint, type LedgerHead } from "../../store/ledger.ts";
import { databaseSource } from "./serve.ts";
import { nodeSha256 } from "./sha256.ts";

/** How much of this ledger somebody outside the database has seen, signed. */
export interface Sighting {
  /** for people: `the copy in DIR`, `the witness of factory-y` */
  readonly where: string;
  readonly size: number;
  /** where it shows the signed checkpoint itself, verified by whoever tells of it */
  readonly root?: Uint8Array;
}

/**
 * A restored database is behind what was signed: going on from there would give one size two roots. Called before a
 * leader signs anything, with the head as it is durable.
 * @throws CountersignError `ledger-behind` when more was signed than the database holds, `ledger-forked` when something
 *   else was
 */
export async function assertHoldsAll(
  db: Queryable,
  head: LedgerHead,
  sightings: readonly Sighting[],
  log: { readonly spki: Uint8Array; readonly verify: VerifySignature },
): Promise<void> {
  const furthest = sightings.reduce<Sighting | undefined>((a, b) => (a && a.size >= b.size ? a : b), undefined);
  if (furthest !== undefined && furthest.size > head.size) {
    throw new CountersignError(
      "ledger-behind",
      `ledger ${head.origin} holds ${head.size} entries, but ${furthest.where} has seen ${furthest.size}: the database ` +
        "was restored from a backup, or is another one. Nothing is signed before it holds them all again: " +
        "countersign ledger rebuild --site ID [--from DIR]",
      { details: { held: head.size, seen: furthest.size, where: furthest.where } },
    );
  }
  for (const sighting of sightings) {
    const root = sighting.root && (await rootAt(db, head, sighting.size, log));
    if (root === undefined || equalBytes(root, sighting.root!)) continue;
    throw new CountersignError(
      "ledger-forked",
      `ledger ${head.origin}: ${sighting.where} shows another history of its first ${sighting.size} entries`,
    );
  }
}

/** Undefined where nothing signed in the database covers that size. */
async function rootAt(
  db: Queryable,
  head: LedgerHead,
  size: number,
  { spki, verify }: { spki: Uint8Array; verify: VerifySignature },
): Promise<Uint8Array | undefined> {
  if (size === head.size) return head.root;
  const signed = await readCheckpoint(db);
  if (signed === undefined || signed.size < size) return undefined;
  const log = noteKey(head.origin, KEY_TYPE.ed25519, ed25519Raw(spki));
  const reader = await LogReader.open({ fetch: databaseSource(db), log, verify, sha256: nodeSha256 });
  return reader.rootAt(size);
}
