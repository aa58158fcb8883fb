import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { nodeVerify } from "../../hsm/index.ts";
import { CountersignError, errorCodeOf, exitCodeOf } from "../../lib/domain/errors.ts";
import { httpSource } from "../../lib/ledger/http.ts";
import { ed25519Raw, KEY_TYPE, noteKey } from "../../lib/ledger/note.ts";
import { createLedger, folderSource, journaledSource } from "../../services/ledger/index.ts";
import { rebuildLedger, type Rebuilt } from "../../services/recovery/rebuild.ts";
import { connect, migrate } from "../../store/db.ts";
import { loadSiteConfig } from "./config.ts";
import { openConfigured, useSoftHsm } from "./tokens.ts";

/**
 * Brings a site's restored database up to its ledger as it was published. The site has to be down, its database up.
 *
 *   node apps/site/rebuild.ts --config .countersign/factory-y/site.json --from .countersign/factory-y/ledger
 *
 * @param from folder or http(s) URL that holds `checkpoint`, `tile/` and `blobs/`, and maybe a site's `journal/`
 */
async function rebuild(configFile: string, from: string): Promise<Rebuilt> {
  const config = loadSiteConfig(configFile);
  useSoftHsm(config.hsm);
  const token = await openConfigured({ ...config.hsm, sessions: 1 }, config.hsm.tokens.site);
  const password = readFileSync(config.database.passwordFile, "utf8").trim();
  const db = connect(config.database.url, { password, max: 4, name: `rebuild ${config.party}` });
  try {
    await migrate(db);
    const [act, log] = [await token.signer("act"), await token.signer("log")];
    await createLedger({ db, origin: config.origin, signer: log });
    return await rebuildLedger({
      db,
      party: config.party,
      log: noteKey(config.origin, KEY_TYPE.ed25519, ed25519Raw(log.spki)),
      verify: nodeVerify,
      actSigner: act,
      source: /^https?:\/\//.test(from) ? httpSource(from) : journaledSource(from, folderSource(from)),
      imagesDir: config.imagesDir,
    });
  } finally {
    await db.end();
    await token.close();
  }
}

try {
  const { values } = parseArgs({ options: { config: { type: "string" }, from: { type: "string" } } });
  if (values.config === undefined || values.from === undefined) {
    throw new CountersignError("usage", "usage: rebuild.ts --config FILE --from DIR|URL");
  }
  process.once("disconnect", () => process.exit(3));
  const rebuilt = await rebuild(values.config, values.from);
  process.stdout.write(`${JSON.stringify(rebuilt)}\n`);
  process.disconnect?.();
} catch (error) {
  const message = error instanceof Error ? error.message : String(error);
  process.stdout.write(`${JSON.stringify({ error: { code: errorCodeOf(error), message } })}\n`);
  process.exit(exitCodeOf(error));
}
