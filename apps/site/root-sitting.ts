import { readFileSync } from "node:fs";
import type { Token } from "../../hsm/index.ts";
import { CountersignError, errorCodeOf, exitCodeOf } from "../../lib/domain/errors.ts";
import { parseCertificate, type Certificate } from "../../lib/pki/certificate.ts";
import { findCaCertificate } from "../../store/authority.ts";
import { connect, migrate, type Db } from "../../store/db.ts";
import { loadCeremonyConfig, loadSiteConfig, type SiteConfig } from "./config.ts";
import { openConfigured, useSoftHsm } from "./tokens.ts";

/** What is done with the root's token after its ceremony, in a process of its own, which alone is given the PIN. */
export interface RootSitting {
  readonly site: SiteConfig;
  readonly db: Db;
  readonly root: Certificate;
  readonly token: Token;
}

/**
 * Opens the root's token for one piece of work, and closes it.
 * @throws CountersignError `state-conflict` before the ceremony, what the token and the work throw
 */
export async function holdSitting<T>(configFile: string, work: (sitting: RootSitting) => Promise<T>): Promise<T> {
  const config = loadCeremonyConfig(configFile);
  const site = loadSiteConfig(config.siteConfig);
  const db = connect(site.database.url, { password: readFileSync(site.database.passwordFile, "utf8").trim(), max: 2 });
  try {
    await migrate(db);
    const ca = await findCaCertificate(db);
    if (ca?.role !== "root")
      throw new CountersignError("state-conflict", `${site.party} has no root: hold its ceremony`);
    useSoftHsm(config.hsm);
    const token = await openConfigured(config.hsm, config.hsm.token);
    try {
      return await work({ site, db, root: parseCertificate(ca.certificate), token });
    } finally {
      await token.close();
    }
  } finally {
    await db.end();
  }
}

/** A program's whole life: its answer, or its refusal, as one line of JSON. Ends with the process that started it. */
export async function answerAndEnd(work: () => Promise<unknown>): Promise<void> {
  try {
    process.once("disconnect", () => process.exit(3));
    process.stdout.write(`${JSON.stringify(await work())}\n`);
    process.disconnect?.();
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    process.stdout.write(`${JSON.stringify({ error: { code: errorCodeOf(error), message } })}\n`);
    process.exit(exitCodeOf(error));
  }
}
