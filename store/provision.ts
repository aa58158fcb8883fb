import { createHash, createHmac, pbkdf2Sync, randomBytes } from "node:crypto";
import pg from "pg";
import { CountersignError } from "../lib/domain/errors.ts";

/** Databases and roles on a Postgres server that we may administer. Nothing here touches a site's tables. */

export interface ProvisionOptions {
  readonly database: string;
  /** Login role that owns the database; may do nothing else on the server. */
  readonly role: string;
  readonly password: string;
}

const PROVISION_LOCK = 0x70726f76; // "prov"
const IDENTIFIER = /^[a-z][a-z0-9_]{0,62}$/;
const DUPLICATE = new Set(["42710", "42P04", "23505"]); // duplicate_object, duplicate_database, unique_violation

/** True when the server takes this login. Throws what the server says otherwise. */
export async function pingPostgres(url: string): Promise<boolean> {
  return withClient(url, async (client) => (await client.query("SELECT 1")).rowCount === 1);
}

/** The embedded cluster is ours alone: no role but the administrator reaches the databases it is born with. */
export async function closeDefaultDatabases(adminUrl: string): Promise<void> {
  await withClient(adminUrl, async (client) => {
    await client.query("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC");
    await client.query("REVOKE CONNECT ON DATABASE template1 FROM PUBLIC");
  });
}

/**
 * Makes the role and its database, or brings an existing role to this password. Repeating it changes nothing.
 * Only the owner (and the administrator) can connect: sites on one cluster share nothing.
 *
 * @throws CountersignError input-invalid for a name that isn't lower-case letters, digits and _, state-conflict when
 *   the database belongs to another role
 */
export async function provisionDatabase(adminUrl: string, options: ProvisionOptions): Promise<void> {
  const { database, role } = options;
  for (const name of [database, role]) {
    if (!IDENTIFIER.test(name)) {
      throw new CountersignError("input-invalid", `"${name}" can't name a database or role: use a-z, 0-9 and _`);
    }
  }
  const attributes =
    "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION PASSWORD " +
    pg.escapeLiteral(scramVerifier(options.password));
  await withClient(adminUrl, async (client) => {
    // Catalog updates of two callers would collide. Held until this connection ends.
    await client.query("SELECT pg_advisory_lock($1)", [PROVISION_LOCK]);
    await ignoreDuplicate(() => client.query(`CREATE ROLE ${role} ${attributes}`));
    await client.query(`ALTER ROLE ${role} ${attributes}`);
    // An administrator who isn't superuser may only hand the database to a role that it is a member of.
    await client.query(`GRANT ${role} TO CURRENT_USER`);
    await ignoreDuplicate(() => client.query(`CREATE DATABASE ${database} OWNER ${role}`));
    await client.query(`REVOKE ALL ON DATABASE ${database} FROM PUBLIC`);
    const owner = await client.query<{ owner: string }>(
      "SELECT pg_get_userbyid(datdba) AS owner FROM pg_database WHERE datname = $1",
      [database],
    );
    if (owner.rows[0]?.owner !== role) {
      throw new CountersignError(
        "state-conflict",
        `database ${database} belongs to ${owner.rows[0]?.owner ?? "nobody"}, not to ${role}: rename or drop it`,
      );
    }
  });
}

/** Ends the database's connections and removes it with its role. Missing ones are fine. For tests and tear-down. */
export async function dropDatabase(adminUrl: string, database: string, role: string): Promise<void> {
  await withClient(adminUrl, async (client) => {
    await client.query(`DROP DATABASE IF EXISTS ${pg.escapeIdentifier(database)} WITH (FORCE)`);
    await client.query(`DROP ROLE IF EXISTS ${pg.escapeIdentifier(role)}`);
  });
}

async function ignoreDuplicate(run: () => Promise<unknown>): Promise<void> {
  try {
    await run();
  } catch (error) {
    if (!DUPLICATE.has((error as { code?: string }).code ?? "")) throw error;
  }
}

async function withClient<T>(url: string, run: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({
    connectionString: url,
    connectionTimeoutMillis: 5_000,
    application_name: "countersign",
  });
  // A server that goes away while we're idle surfaces in the next query.
  client.on("error", () => {});
  await client.connect();
  try {
    return await run(client);
  } finally {
    await client.end();
  }
}

/** RFC 5803 verifier: the password itself never reaches the server, its log or its statistics views. */
function scramVerifier(password: string): string {
  const iterations = 4096;
  const salt = randomBytes(16);
  const salted = pbkdf2Sync(password.normalize("NFKC"), salt, iterations, 32, "sha256");
  const hmac = (text: string) => createHmac("sha256", salted).update(text).digest();
  const stored = createHash("sha256").update(hmac("Client Key")).digest("base64");
  return `SCRAM-SHA-256$${iterations}:${salt.toString("base64")}$${stored}:${hmac("Server Key").toString("base64")}`;
}
