import type { PrevRef } from "../lib/records/primitives.ts";
import type { Receipt } from "../lib/records/receipt.ts";
import type { Queryable, Tx } from "./db.ts";
import { packed, texts } from "./packed.ts";

/** Devices this site has, or had, in its hands. A device id and a key belong together for good, across lots. */

export type Stage = "built" | "received" | "certified" | "injected" | "installed";

/** A device without its last act, which can be longer than all the rest. */
export type DeviceRow = Omit<Device, "prev">;

export interface Device {
  readonly id: string;
  readonly spkiSha256: string;
  readonly lot: string;
  readonly slot: number;
  readonly csrSha256: string;
  readonly stage: Stage;
  /** in this site's custody */
  readonly held: boolean;
  /** the device's last act, as the next one names it */
  readonly prev: PrevRef;
}

interface BareRow {
  id: string;
  spki_sha256: string;
  lot: string;
  slot: number;
  csr_sha256: string;
  stage: Stage;
  held: boolean;
}
type Row = BareRow & Pick<Device, "prev">;

const COLUMNS = "id, spki_sha256, lot, slot, csr_sha256, stage, held";

function fromRow<T extends BareRow>({ spki_sha256, csr_sha256, ...rest }: T) {
  return { ...rest, spkiSha256: spki_sha256, csrSha256: csr_sha256 };
}

/** Every device that has one of these ids or keys, locked until the transaction ends, in one order for all callers. */
export async function lockDevices(tx: Tx, ids: readonly string[], keys: readonly string[]): Promise<DeviceRow[]> {
  const { rows } = await tx.query<BareRow>({
    name: "device-lock",
    text: `SELECT ${COLUMNS} FROM device WHERE id = ANY($1) OR spki_sha256 = ANY($2) ORDER BY id FOR UPDATE`,
    values: [texts(ids), texts(keys)],
  });
  return rows.map(fromRow);
}

/** These devices with their last acts, as `lockDevices`. */
export async function lockForNextAct(tx: Tx, ids: readonly string[]): Promise<Device[]> {
  const { rows } = await tx.query<Row>({
    name: "device-lock-next",
    text: `SELECT ${COLUMNS}, prev FROM device WHERE id = ANY($1) ORDER BY id FOR UPDATE`,
    values: [texts(ids)],
  });
  return rows.map(fromRow);
}

/** Of these slots of a lot, those that have a device. */
export async function takenSlots(q: Queryable, lot: string, slots: readonly number[]): Promise<Set<number>> {
  const { rows } = await q.query<{ slot: number }>("SELECT slot FROM device WHERE lot = $1 AND slot = ANY($2)", [
    lot,
    slots,
  ]);
  return new Set(rows.map((row) => row.slot));
}

export interface NewDevice extends Omit<Device, "held"> {
  readonly csr?: Uint8Array;
  readonly handoff?: string;
}

/** Gives how many were new: fewer than given when another transaction stored one of these ids, keys or slots first. */
export async function insertDevices(tx: Tx, devices: readonly NewDevice[]): Promise<number> {
  if (devices.length === 0) return 0;
  const sorted = devices.toSorted((a, b) => (a.id < b.id ? -1 : 1));
  const { rowCount } = await tx.query({
    name: "device-insert",
    text: `INSERT INTO device (id, spki_sha256, lot, slot, csr_sha256, csr, stage, built, handoff, prev)
      SELECT i, k, l, s, c, r, g, g = 'built', h, p::jsonb
      FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::text[], $6::bytea[], $7::text[], $8::text[], $9::text[])
        WITH ORDINALITY AS n(i, k, l, s, c, r, g, h, p, o) ORDER BY o
      ON CONFLICT DO NOTHING`,
    values: [
      sorted.map((d) => d.id),
      sorted.map((d) => d.spkiSha256),
      sorted.map((d) => d.lot),
      sorted.map((d) => d.slot),
      sorted.map((d) => d.csrSha256),
      sorted.map((d) => d.csr ?? null),
      sorted.map((d) => d.stage),
      sorted.map((d) => d.handoff ?? null),
      sorted.map((d) => JSON.stringify(d.prev)),
    ],
  });
  return rowCount ?? 0;
}

/** Moves devices on to their next act, one of the ledger `origin` each. The caller holds their locks. */
export async function advanceDevices(
  tx: Tx,
  stage: Stage,
  origin: string,
  devices: readonly { id: string; leafHash: string; csr?: Uint8Array }[],
): Promise<void> {
  if (devices.length === 0) return;
  const csrs = packed(devices.map((d) => d.csr ?? NONE));
  await tx.query({
    name: "device-advance",
    text: `UPDATE device d SET stage = $1, prev = jsonb_build_object('origin', $2::text, 'leafHash', n.l),
        csr = CASE n.s WHEN 0 THEN d.csr ELSE substring($5::bytea FROM n.e - n.s + 1 FOR n.s) END
      FROM unnest($3::text[], $4::text[], $6::int[], $7::int[]) AS n(i, l, e, s) WHERE d.id = n.i`,
    values: [
      stage,
      origin,
      texts(devices.map((d) => d.id)),
      texts(devices.map((d) => d.leafHash)),
      csrs.bytes,
      csrs.ends,
      csrs.sizes,
    ],
  });
}

const NONE = new Uint8Array(0);

/** Everything the API shows of a device; the chain only once it is released. */
export interface DeviceView extends Device {
  readonly csr: Uint8Array | null;
  readonly certificate: Uint8Array | null;
  /** the grant it was certified under, by its act */
  readonly grantLeaf: string | null;
  readonly receipt: Receipt | null;
  readonly imagePath: string | null;
  readonly handoff: string | null;
  readonly installed: boolean;
}

const VIEW = `SELECT d.id, d.spki_sha256, d.lot, d.slot, d.csr_sha256, d.stage, d.held, d.prev, d.handoff, d.csr,
    i.certificate, i.grant_leaf AS "grantLeaf", j.receipt, j.image_path AS "imagePath", d.stage = 'installed' AS installed
  FROM device d JOIN lot l ON l.id = d.lot
  LEFT JOIN released_issuance i ON i.device = d.id AND i.profile = l.profile
  LEFT JOIN injection j ON j.device = d.id AND j.leaf_hash IS NOT NULL`;

type ViewRow = Row &
  Pick<DeviceView, "csr" | "certificate" | "grantLeaf" | "receipt" | "imagePath" | "handoff" | "installed">;

export async function findDevice(q: Queryable, id: string): Promise<DeviceView | undefined> {
  const { rows } = await q.query<ViewRow>(`${VIEW} WHERE d.id = $1`, [id]);
  return rows[0] && { ...rows[0], ...fromRow(rows[0]) };
}

/** A lot's devices in slot order, the next `limit` after `afterSlot`. */
export async function listDevices(
  q: Queryable,
  lot: string,
  page: { afterSlot: number; limit: number },
): Promise<DeviceView[]> {
  const { rows } = await q.query<ViewRow>(`${VIEW} WHERE d.lot = $1 AND d.slot > $2 ORDER BY d.slot LIMIT $3`, [
    lot,
    page.afterSlot,
    page.limit,
  ]);
  return rows.map((row) => ({ ...row, ...fromRow(row) }));
}
