import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { CountersignError, errorCodeOf, exitCodeOf } from "../../lib/domain/errors.ts";
import { parseCertificate } from "../../lib/pki/certificate.ts";
import { parseCrl } from "../../lib/pki/crl.ts";
import { keepCrl } from "../../services/parties/crl.ts";
import { findCaCertificate } from "../../store/authority.ts";
import { connect, migrate } from "../../store/db.ts";
import { loadCeremonyConfig, loadSiteConfig } from "./config.ts";
import { openConfigured, useSoftHsm } from "./tokens.ts";

/**
 * The root's next CRL, in a process of its own, which alone is given the root token's PIN: it opens the token, signs a CRL
 * that lists exactly the serial numbers that were reviewed, and ends.
 *
 *   node apps/site/ceremony-crl.ts --config .countersign/company-x/root/ceremony.json --days 365 --revoked 3f1c...
 */
async function sign(configFile: string, days: number, revoked: readonly string[]) {
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
      const root = parseCertificate(ca.certificate);
      const reviewed = new Set(revoked.map((serial) => serial.toLowerCase()));
      const crl = await keepCrl(db, await token.caKey("root"), root, { now: new Date(), days, reviewed });
      const { thisUpdate, nextUpdate, revoked: listed } = parseCrl(crl.der);
      return { number: crl.number, thisUpdate, nextUpdate, revoked: [...listed.keys()] };
    } finally {
      await token.close();
    }
  } finally {
    await db.end();
  }
}

try {
  const { values } = parseArgs({
    options: {
      config: { type: "string" },
      days: { type: "string" },
      revoked: { type: "string", multiple: true, default: [] },
    },
  });
  const days = Number(values.days);
  if (values.config === undefined || !(days >= 1 && days <= 3660)) {
    throw new CountersignError("usage", "usage: ceremony-crl.ts --config FILE --days N [--revoked SERIAL]...");
  }
  process.once("disconnect", () => process.exit(3));
  process.stdout.write(`${JSON.stringify(await sign(values.config, days, values.revoked))}\n`);
  process.disconnect?.();
} catch (error) {
  const message = error instanceof Error ? error.message : String(error);
  process.stdout.write(`${JSON.stringify({ error: { code: errorCodeOf(error), message } })}\n`);
  process.exit(exitCodeOf(error));
}
