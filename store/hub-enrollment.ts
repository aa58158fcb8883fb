import { CountersignError } from "../lib/domain/errors.ts";
import type { Queryable } from "./db.ts";

export interface EnrollmentGroup {
  name: string;
  caName: string;
  state: "enabled" | "disabled";
  createdAt: Date;
}

const COLUMNS = `name, ca_name AS "caName", state, created_at AS "createdAt"`;

/** @throws CountersignError `already-exists` for the name or the CA, `hub-ca-not-verified` */
export async function createEnrollmentGroup(db: Queryable, name: string, caName: string): Promise<EnrollmentGroup> {
  const known = await db.query("SELECT name FROM hub_ca WHERE name = $1 AND state = 'verified'", [caName]);
  if (known.rowCount === 0) {
    throw new CountersignError("hub-ca-not-verified", `the hub has no verified CA named ${caName}`);
  }
  const { rows } = await db.query<EnrollmentGroup>(
    `INSERT INTO hub_enrollment_group (name, ca_name) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING ${COLUMNS}`,
    [name, caName],
  );
  if (rows[0] !== undefined) return rows[0];
  throw new CountersignError("already-exists", `there is an enrollment group ${name}, or one of the CA ${caName}`);
}

export async function listEnrollmentGroups(db: Queryable): Promise<EnrollmentGroup[]> {
  return (await db.query<EnrollmentGroup>(`SELECT ${COLUMNS} FROM hub_enrollment_group ORDER BY name`)).rows;
}

/** That of any of a CA's certificates is that of all; where there are several, one that is disabled decides. */
export async function enrollmentGroupOf(db: Queryable, lineage: string): Promise<EnrollmentGroup | undefined> {
  const sql = `SELECT ${COLUMNS} FROM hub_enrollment_group
    WHERE ca_name IN (SELECT name FROM hub_ca WHERE lineage = $1) ORDER BY state = 'enabled', name LIMIT 1`;
  return (await db.query<EnrollmentGroup>(sql, [lineage])).rows[0];
}

export async function setEnrollmentGroup(
  db: Queryable,
  name: string,
  state: EnrollmentGroup["state"],
): Promise<EnrollmentGroup | undefined> {
  const sql = `UPDATE hub_enrollment_group SET state = $2 WHERE name = $1 RETURNING ${COLUMNS}`;
  return (await db.query<EnrollmentGroup>(sql, [name, state])).rows[0];
}

export async function removeEnrollmentGroup(db: Queryable, name: string): Promise<boolean> {
  return (await db.query("DELETE FROM hub_enrollment_group WHERE name = $1", [name])).rowCount === 1;
}
