import { CountersignError } from "../lib/domain/errors.ts";
import type { Grant } from "../lib/records/grant.ts";
import type { ActRef } from "../lib/records/primitives.ts";
import type { Queryable, Tx } from "./db.ts";

/** Says that this site has accepted a grant. */
export const GRANT_CHANNEL = "grant_accepted";

/** The grant under which this site signs, as its parent's signed act says it. */
export interface CurrentGrant {
  readonly ref: ActRef;
  readonly parent: string;
  readonly fields: Grant;
  /** this site's CA certificate, DER */
  readonly certificate: Uint8Array;
  /** its issuers, DER, the parent first, the root last */
  readonly upstream: Uint8Array[];
  readonly quota: number;
  readonly used: number;
  /** another CA key is taking effect: nothing more is begun under this one */
  readonly closing: boolean;
}

interface Row {
  leaf_hash: string;
  origin: string;
  parent: string;
  fields: Grant;
  certificate: Uint8Array;
  upstream: Uint8Array[];
  quota: number;
  used: number;
  closing: boolean;
}

const COLUMNS = "leaf_hash, origin, parent, fields, certificate, upstream, quota, used, closing";

function fromRow(row: Row): CurrentGrant {
  const { leaf_hash: leafHash, origin, ...rest } = row;
  return { ref: { origin, leafHash }, ...rest };
}

export async function findCurrentGrant(q: Queryable): Promise<CurrentGrant | undefined> {
  const { rows } = await q.query<Row>(`SELECT ${COLUMNS} FROM grant_received WHERE current`);
  return rows[0] && fromRow(rows[0]);
}

/** Every grant that this site has accepted, the current one among them. */
export async function acceptedGrants(q: Queryable): Promise<ActRef[]> {
  const { rows } = await q.query<{ origin: string; leaf_hash: string }>("SELECT origin, leaf_hash FROM grant_received");
  return rows.map((row) => ({ origin: row.origin, leafHash: row.leaf_hash }));
}

/** By the grant's act, this site's CA certificate under it and what is above, DER, the root left out. */
export async function grantedChains(q: Queryable): Promise<Map<string, Uint8Array[]>> {
  const { rows } = await q.query<Pick<Row, "leaf_hash" | "certificate" | "upstream">>(
    "SELECT leaf_hash, certificate, upstream FROM grant_received",
  );
  return new Map(
    rows.map(({ leaf_hash, certificate, upstream }) => [leaf_hash, [certificate, ...upstream.slice(0, -1)]]),
  );
}

/** The last accepted grant for the CA key that `fits` says yes to. */
export async function findGrantOf(
  q: Queryable,
  fits: (certificate: Uint8Array) => boolean,
): Promise<CurrentGrant | undefined> {
  const { rows } = await q.query<Row>(`SELECT ${COLUMNS} FROM grant_received ORDER BY current DESC, received DESC`);
  const row = rows.find(({ certificate }) => fits(certificate));
  return row && fromRow(row);
}

/** @throws CountersignError `grant-missing` */
export async function currentGrant(q: Queryable): Promise<CurrentGrant> {
  const found = await findCurrentGrant(q);
  if (!found)
    throw new CountersignError("grant-missing", "this site holds no grant yet: join a parent and be delegated");
  return found;
}

/**
 * Takes `n` devices off the current grant's quota, in the caller's transaction. The row stays locked until that ends,
 * so two issuers can't spend the same device; a rolled-back transaction gives them back.
 * @throws CountersignError `grant-missing`, `quota-exceeded`, `rotation-under-way`
 */
export async function debitQuota(
  tx: Tx,
  n: number,
): Promise<{ grant: ActRef; certificate: Uint8Array; remaining: number }> {
  if (!Number.isSafeInteger(n) || n < 0) throw new RangeError("the quota is debited by a whole number");
  let held: CurrentGrant;
  do {
    const { rows } = await tx.query<
      Pick<Row, "origin" | "leaf_hash" | "certificate" | "closing"> & { remaining: number }
    >(
      `UPDATE grant_received SET used = used + $1 WHERE current AND used + $1 <= quota
       RETURNING origin, leaf_hash, certificate, closing, quota - used AS remaining`,
      [n],
    );
    const row = rows[0];
    if (row) {
      const { origin, leaf_hash: leafHash, certificate, closing, remaining } = row;
      if (closing) throw rotationUnderWay();
      return { grant: { origin, leafHash }, certificate, remaining };
    }
    held = await currentGrant(tx);
    // It has room: a later grant took the place of the one whose row was waited for.
  } while (held.used + n <= held.quota);
  throw new CountersignError(
    "quota-exceeded",
    `${n} more devices exceed the grant ${held.fields.id}: ${held.used} of ${held.quota} are used; ask ${held.parent} for more`,
    { details: { quota: held.quota, used: held.used, asked: n } },
  );
}

/** It takes as long as the ledger's queue: whoever meets it comes again. */
export function rotationUnderWay(): CountersignError {
  return new CountersignError("rotation-under-way", "the CA's key is just being changed: try again in a moment");
}

/** Stores a checked grant and makes it the current one. A second call with the same act changes nothing. */
export async function storeGrant(
  tx: Tx,
  grant: {
    ref: ActRef;
    parent: string;
    entry: Uint8Array;
    fields: Grant;
    certificate: Uint8Array;
    upstream: readonly Uint8Array[];
  },
): Promise<void> {
  const { rows } = await tx.query("SELECT 1 FROM grant_received WHERE leaf_hash = $1", [grant.ref.leafHash]);
  if (rows.length > 0) return;
  // What an earlier revision used stays used.
  const spent = await tx.query<{ used: number }>(
    "UPDATE grant_received SET current = false WHERE current RETURNING used",
  );
  await tx.query(
    `INSERT INTO grant_received (leaf_hash, origin, parent, entry, fields, certificate, upstream, quota, used, current)
     VALUES ($1, $2, $3, $4, $5, $6, $7, $8, LEAST($9::bigint, $8::bigint), true)`,
    [
      grant.ref.leafHash,
      grant.ref.origin,
      grant.parent,
      grant.entry,
      JSON.stringify(grant.fields),
      grant.certificate,
      grant.upstream,
      grant.fields.quota,
      spent.rows[0]?.used ?? 0,
    ],
  );
  await tx.query("SELECT pg_notify($1, '')", [GRANT_CHANNEL]);
}

/** The root this site trusts, DER. */
export async function rootPin(q: Queryable): Promise<{ certificate: Uint8Array; sha256: string } | undefined> {
  const { rows } = await q.query<{ certificate: Uint8Array; sha256: string }>(
    "SELECT certificate, sha256 FROM root_pin",
  );
  return rows[0];
}

/**
 * Pins the root for good.
 * @throws CountersignError `state-conflict` when another root is pinned already
 */
export async function pinRoot(tx: Tx, certificate: Uint8Array, sha256: string): Promise<void> {
  await tx.query("INSERT INTO root_pin (certificate, sha256) VALUES ($1, $2) ON CONFLICT DO NOTHING", [
    certificate,
    sha256,
  ]);
  const pinned = await rootPin(tx);
  if (pinned?.sha256 === sha256) return;
  throw new CountersignError(
    "state-conflict",
    `this site trusts the root ${pinned?.sha256 ?? "?"}; the chain ends in another one, ${sha256}`,
  );
}
