import type { Queryable } from "./db.ts";
import type { HubCa } from "./hub-cas.ts";

export type HubScope = "telemetry" | "messages" | "twin" | "methods";

export interface HubGroup {
  name: string;
  query: string;
  disabledAt: Date | null;
  /** null: as the CA of its devices says */
  enrolment: HubCa["enrolment"] | null;
  /** null: everything */
  scopes: HubScope[] | null;
  createdAt: Date;
}

const COLUMNS = `name, query, disabled_at AS "disabledAt", enrolment, scopes, created_at AS "createdAt"`;

export async function listGroups(db: Queryable): Promise<HubGroup[]> {
  return (await db.query<HubGroup>(`SELECT ${COLUMNS} FROM hub_group ORDER BY name`)).rows;
}

/** Makes it, or gives the group of this name another query and other terms; whether it is disabled stays. */
export async function putGroup(
  db: Queryable,
  group: Pick<HubGroup, "name" | "query" | "enrolment" | "scopes">,
): Promise<HubGroup> {
  const { rows } = await db.query<HubGroup>(
    `INSERT INTO hub_group (name, query, enrolment, scopes) VALUES ($1, $2, $3, $4)
     ON CONFLICT (name) DO UPDATE SET query = excluded.query, enrolment = excluded.enrolment, scopes = excluded.scopes
     RETURNING ${COLUMNS}`,
    [group.name, group.query, group.enrolment, group.scopes],
  );
  return rows[0]!;
}

/** Undefined when there is no such group. */
export async function setGroupDisabled(db: Queryable, name: string, disabled: boolean): Promise<HubGroup | undefined> {
  const { rows } = await db.query<HubGroup>(
    `UPDATE hub_group SET disabled_at = CASE WHEN $2 THEN coalesce(disabled_at, now()) END WHERE name = $1
     RETURNING ${COLUMNS}`,
    [name, disabled],
  );
  return rows[0];
}

export async function removeGroup(db: Queryable, name: string): Promise<boolean> {
  return (await db.query("DELETE FROM hub_group WHERE name = $1", [name])).rowCount === 1;
}
