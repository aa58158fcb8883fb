import { CountersignError } from "../lib/domain/errors.ts";
import type { Queryable } from "./db.ts";

/** The CAs that the hub knows. */

export interface HubCa {
  name: string;
  state: "unverified" | "verified";
  /** DER; null until uploaded or verified. */
  certificate: Uint8Array | null;
  sha256: string | null;
  code: string;
  codeExpiresAt: Date;
  createdAt: Date;
  verifiedAt: Date | null;
  disabledAt: Date | null;
  /** Whether a device's first connect creates it, or it must have been created before. */
  enrolment: "first-connect" | "registered";
  /** What becomes of a device whose certificate no followed ledger holds. */
  unlogged: "allow" | "alarm" | "refuse";
  /** The name of the first of this CA's certificates: devices belong to all of them. */
  lineage: string;
}

const CA_COLUMNS = `name, state, certificate, sha256, code, code_expires_at AS "codeExpiresAt",
  created_at AS "createdAt", verified_at AS "verifiedAt", disabled_at AS "disabledAt", enrolment, unlogged, lineage`;

/**
 * Adds an unverified CA or, when the name is there unverified already, gives it the new code if the old one has
 * expired: asking twice gives the same code, so that a ceremony's input stays true.
 * @param offer.succeeds a verified CA whose devices this one has too, under its terms; disabled if that one is
 * @throws CountersignError `already-exists` when it is verified, `state-conflict` when another certificate was uploaded,
 *   `not-found` when there is no such predecessor
 */
export async function offerCa(
  db: Queryable,
  offer: {
    name: string;
    code: string;
    codeExpiresAt: Date;
    certificate?: Uint8Array;
    sha256?: string;
    succeeds?: string | undefined;
  },
): Promise<HubCa> {
  const earlier = offer.succeeds === undefined ? undefined : await findCa(db, offer.succeeds);
  if (offer.succeeds !== undefined && earlier?.state !== "verified") {
    throw new CountersignError("not-found", `the hub has no verified CA ${offer.succeeds} to be succeeded`);
  }
  const taken = await db.query("SELECT 1 FROM hub_ca WHERE lineage = $1 AND name <> $1", [offer.name]);
  if (earlier === undefined && taken.rowCount !== 0) {
    throw new CountersignError(
      "state-conflict",
      `${offer.name} names a CA whose later certificates are here: take another`,
    );
  }
  const { rows } = await db.query<HubCa>(
    `INSERT INTO hub_ca (name, state, certificate, sha256, code, code_expires_at, lineage, enrolment, unlogged,
       disabled_at)
     VALUES ($1, 'unverified', $2, $3, $4, $5, coalesce($6, $1), coalesce($7, 'first-connect'), coalesce($8, 'alarm'),
       $9)
     ON CONFLICT (name) DO UPDATE SET
       code = CASE WHEN hub_ca.code_expires_at > now() THEN hub_ca.code ELSE excluded.code END,
       code_expires_at = CASE WHEN hub_ca.code_expires_at > now()
         THEN hub_ca.code_expires_at ELSE excluded.code_expires_at END,
       certificate = coalesce(hub_ca.certificate, excluded.certificate),
       sha256 = coalesce(hub_ca.sha256, excluded.sha256),
       lineage = excluded.lineage,
       -- An entry that joins a lineage takes its terms on, also if it was asked for alone before.
       enrolment = CASE WHEN $6::text IS NULL THEN hub_ca.enrolment ELSE excluded.enrolment END,
       unlogged = CASE WHEN $6::text IS NULL THEN hub_ca.unlogged ELSE excluded.unlogged END,
       disabled_at = CASE WHEN $6::text IS NULL THEN hub_ca.disabled_at ELSE excluded.disabled_at END
     WHERE hub_ca.state = 'unverified'
       AND (hub_ca.sha256 IS NULL OR excluded.sha256 IS NULL OR hub_ca.sha256 = excluded.sha256)
     RETURNING ${CA_COLUMNS}`,
    [
      offer.name,
      offer.certificate ?? null,
      offer.sha256 ?? null,
      offer.code,
      offer.codeExpiresAt,
      earlier?.lineage ?? null,
      earlier?.enrolment ?? null,
      earlier?.unlogged ?? null,
      earlier?.disabledAt ?? null,
    ],
  );
  const row = rows[0];
  if (row !== undefined) return row;
  const existing = await findCa(db, offer.name);
  if (existing?.state === "verified") {
    throw new CountersignError("already-exists", `the hub already has a verified CA named ${offer.name}`);
  }
  throw new CountersignError("state-conflict", `another certificate was uploaded for the CA ${offer.name}`);
}

export async function findCa(db: Queryable, name: string): Promise<HubCa | undefined> {
  return (await db.query<HubCa>(`SELECT ${CA_COLUMNS} FROM hub_ca WHERE name = $1`, [name])).rows[0];
}

export async function listCas(db: Queryable): Promise<HubCa[]> {
  return (await db.query<HubCa>(`SELECT ${CA_COLUMNS} FROM hub_ca ORDER BY name`)).rows;
}

export async function countCas(db: Queryable): Promise<number> {
  return (await db.query<{ n: number }>("SELECT count(*) AS n FROM hub_ca")).rows[0]?.n ?? 0;
}

/**
 * Turns an unverified CA into a verified one. The code is part of the condition, so a code replaced meanwhile doesn't
 * count.
 * @throws CountersignError `already-exists` when this certificate is verified under another name; `state-conflict`
 */
export async function verifyCa(
  db: Queryable,
  proven: { name: string; code: string; certificate: Uint8Array; sha256: string },
): Promise<HubCa> {
  try {
    const { rows } = await db.query<HubCa>(
      `UPDATE hub_ca SET state = 'verified', certificate = $3, sha256 = $4, verified_at = now()
       WHERE name = $1 AND code = $2 AND state = 'unverified' AND code_expires_at > now()
       RETURNING ${CA_COLUMNS}`,
      [proven.name, proven.code, proven.certificate, proven.sha256],
    );
    const row = rows[0];
    if (row !== undefined) return row;
  } catch (cause) {
    if ((cause as { code?: string }).code !== "23505") throw cause;
    const message = "this CA certificate is already registered and verified under another name";
    throw new CountersignError("already-exists", message, { cause });
  }
  throw new CountersignError("state-conflict", `the CA ${proven.name} was changed meanwhile; look at it and try again`);
}

/** Undefined when there is no such CA. */
export async function setCaDisabled(db: Queryable, name: string, disabled: boolean): Promise<HubCa | undefined> {
  const { rows } = await db.query<HubCa>(
    `UPDATE hub_ca SET disabled_at = CASE WHEN $2 THEN coalesce(disabled_at, now()) END WHERE name = $1
     RETURNING ${CA_COLUMNS}`,
    [name, disabled],
  );
  return rows[0];
}

/** Undefined when there is no such CA. */
export async function setCaEnrolment(
  db: Queryable,
  name: string,
  enrolment: HubCa["enrolment"],
): Promise<HubCa | undefined> {
  return setTerm(db, name, "enrolment", enrolment);
}

/** Undefined when there is no such CA. */
export async function setCaUnlogged(
  db: Queryable,
  name: string,
  unlogged: HubCa["unlogged"],
): Promise<HubCa | undefined> {
  return setTerm(db, name, "unlogged", unlogged);
}

/** A lineage has its terms in common: a device could come with the certificate that is less strict. */
async function setTerm(
  db: Queryable,
  name: string,
  term: "enrolment" | "unlogged",
  value: string,
): Promise<HubCa | undefined> {
  const { rows } = await db.query<HubCa>(
    `UPDATE hub_ca SET ${term} = $2 WHERE name = $1 OR lineage = (SELECT lineage FROM hub_ca WHERE name = $1)
     RETURNING ${CA_COLUMNS}`,
    [name, value],
  );
  return rows.find((ca) => ca.name === name);
}

/**
 * False when there is no such CA.
 * @throws CountersignError `state-conflict` while devices of it are here: another owner of its name would have them
 */
export async function removeCa(db: Queryable, name: string): Promise<boolean> {
  try {
    return (await db.query("DELETE FROM hub_ca WHERE name = $1", [name])).rowCount === 1;
  } catch (cause) {
    if ((cause as { code?: string }).code !== "23503") throw cause;
    const message = `devices of the CA ${name} are registered here: disable it, or remove them first`;
    throw new CountersignError("state-conflict", message, { cause });
  }
}
