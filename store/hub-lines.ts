import { CountersignError } from "../lib/domain/errors.ts";
import { inTransaction, type Db, type Queryable } from "./db.ts";

/** This site's CA at its hubs: one line a hub and name, a row for each certificate that the CA has had. */

export interface HubLine {
  readonly hub: string;
  readonly line: string;
}

export interface HubLineCa extends HubLine {
  /** the hub's name for this certificate: the line's own, then with a number */
  readonly name: string;
  readonly ordinal: number;
  /** DER */
  readonly certificate: Uint8Array;
  readonly caSha256: string;
  readonly state: "requested" | "registered" | "refused" | "retired";
  /** place -> SHA-256 of the code */
  readonly codes: Readonly<Record<string, string>>;
  readonly errorCode: string | null;
  readonly errorMessage: string | null;
}

const COLUMNS = `hub, line, name, ordinal, certificate, ca_sha256 AS "caSha256", state, codes, error_code AS "errorCode",
  error_message AS "errorMessage"`;

export async function addHubLine(q: Queryable, { hub, line }: HubLine): Promise<void> {
  await q.query("INSERT INTO hub_line (hub, line) VALUES ($1, $2) ON CONFLICT DO NOTHING", [hub, line]);
}

export async function listHubLines(q: Queryable): Promise<HubLine[]> {
  return (await q.query<HubLine>("SELECT hub, line FROM hub_line ORDER BY hub, line")).rows;
}

/** Oldest first. */
export async function listHubLineCas(q: Queryable, of?: HubLine): Promise<HubLineCa[]> {
  const { rows } = await q.query<HubLineCa>(
    `SELECT ${COLUMNS} FROM hub_line_ca WHERE $1::text IS NULL OR (hub = $1 AND line = $2) ORDER BY hub, line, ordinal`,
    [of?.hub ?? null, of?.line ?? null],
  );
  return rows;
}

/** @throws CountersignError `not-found` */
export async function getHubLineCa(q: Queryable, hub: string, name: string): Promise<HubLineCa> {
  const { rows } = await q.query<HubLineCa>(`SELECT ${COLUMNS} FROM hub_line_ca WHERE hub = $1 AND name = $2`, [
    hub,
    name,
  ]);
  if (rows[0]) return rows[0];
  throw new CountersignError("not-found", `this site registered no CA ${name} at ${hub}`);
}

/** The row of this certificate, made where there is none: under the line's name, or that with the next number. */
export async function hubLineCa(
  db: Db,
  { hub, line }: HubLine,
  ca: { certificate: Uint8Array; sha256: string },
): Promise<HubLineCa> {
  return inTransaction(db, async (tx) => {
    const held = await tx.query("SELECT 1 FROM hub_line WHERE hub = $1 AND line = $2 FOR UPDATE", [hub, line]);
    if (held.rowCount === 0) throw new CountersignError("not-found", `this site has no CA ${line} at ${hub}`);
    const cas = await listHubLineCas(tx, { hub, line });
    const found = cas.find(({ caSha256 }) => caSha256 === ca.sha256);
    if (found) return found;
    const ordinal = (cas.at(-1)?.ordinal ?? 0) + 1;
    const name = ordinal === 1 ? line : `${line}-${ordinal}`;
    const { rows } = await tx.query<HubLineCa>(
      `INSERT INTO hub_line_ca (hub, line, name, ordinal, certificate, ca_sha256) VALUES ($1, $2, $3, $4, $5, $6)
       RETURNING ${COLUMNS}`,
      [hub, line, name, ordinal, ca.certificate, ca.sha256],
    );
    return rows[0]!;
  });
}

export async function setHubLineCa(
  q: Queryable,
  hub: string,
  name: string,
  change: { state: HubLineCa["state"]; refusal?: { code: string; message: string } },
): Promise<void> {
  await q.query("UPDATE hub_line_ca SET state = $3, error_code = $4, error_message = $5 WHERE hub = $1 AND name = $2", [
    hub,
    name,
    change.state,
    change.refusal?.code ?? null,
    change.refusal?.message.slice(0, 1000) ?? null,
  ]);
}

/** What a place's code was, by digest; the last one given is the one that was proven. */
export async function noteHubCode(q: Queryable, hub: string, name: string, place: string, code: string): Promise<void> {
  await q.query(
    "UPDATE hub_line_ca SET codes = codes || jsonb_build_object($3::text, $4::text) WHERE hub = $1 AND name = $2",
    [hub, name, place, code],
  );
}

export async function addLineEnrollment(q: Queryable, { hub, line }: HubLine, name: string): Promise<void> {
  await q.query(
    `INSERT INTO hub_line_enrollment (hub, name, line) VALUES ($1, $2, $3)
     ON CONFLICT (hub, name) DO UPDATE SET line = excluded.line`,
    [hub, name, line],
  );
}

export async function removeLineEnrollment(q: Queryable, hub: string, name: string): Promise<void> {
  await q.query("DELETE FROM hub_line_enrollment WHERE hub = $1 AND name = $2", [hub, name]);
}

export async function lineEnrollments(q: Queryable, { hub, line }: HubLine): Promise<string[]> {
  const { rows } = await q.query<{ name: string }>(
    "SELECT name FROM hub_line_enrollment WHERE hub = $1 AND line = $2 ORDER BY name",
    [hub, line],
  );
  return rows.map(({ name }) => name);
}
