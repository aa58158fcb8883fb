import type { Queryable } from "./db.ts";

/** What an operator asked for; a later order under the same name takes the earlier one's place. */
export async function storeOrder(q: Queryable, name: string, request: unknown): Promise<void> {
  await q.query(
    `INSERT INTO operator_order (name, request) VALUES ($1, $2)
     ON CONFLICT (name) DO UPDATE SET request = excluded.request, asked = now()`,
    [name, JSON.stringify(request)],
  );
}

/** Undefined when nobody asked for anything under this name. */
export async function findOrder(q: Queryable, name: string): Promise<unknown> {
  const { rows } = await q.query<{ request: unknown }>("SELECT request FROM operator_order WHERE name = $1", [name]);
  return rows[0]?.request;
}
