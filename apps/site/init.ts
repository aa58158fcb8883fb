import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { parseArgs } from "node:util";
import type { Token } from "../../hsm/index.ts";
import { CountersignError, exitCodeOf } from "../../lib/domain/errors.ts";
import { ensureErasedPartition } from "../../services/firmware/templates.ts";
import { logVkey, witnessVkey } from "../../services/parties/identity.ts";
import { connect, migrate } from "../../store/db.ts";
import { loadSiteConfig, type CeremonyConfig, type SiteConfig } from "./config.ts";
import { ensureClient, ensureInfrastructureCa, ensureServer, type ClientRoleName } from "./infrastructure.ts";
import { ensureSoftHsm, ensureToken, openConfigured, useSoftHsm } from "./tokens.ts";

/**
 * Makes everything a site needs before it first starts: tokens with random PINs, keys by role, the infrastructure CA,
 * TLS keys and certificates, the database's tables. What is there stays; run it as often as you like.
 *
 *   node apps/site/init.ts --config .countersign/factory-y/site.json
 */

export const CLIENT_ROLES: readonly ClientRoleName[] = ["operator", "station", "technician", "monitor"];

/** Where a site's infrastructure files are: beside the client CA's certificate. */
export function infraFolder(config: SiteConfig): string {
  return dirname(config.gateway.tls.clientCaFile);
}

/**
 * @param file the site's configuration file
 * @throws CountersignError whatever the token, the profiles or the database refuse
 */
export async function initSite(file: string): Promise<void> {
  const config = loadSiteConfig(file);
  ensureSoftHsm(config.hsm);
  useSoftHsm(config.hsm);
  for (const folder of [infraFolder(config), config.imagesDir]) mkdirSync(folder, { recursive: true, mode: 0o700 });

  await ensureToken(config.hsm, config.hsm.tokens.site);
  if (config.hsm.tokens.ca !== undefined) await ensureToken(config.hsm, config.hsm.tokens.ca);
  const token = await openConfigured({ ...config.hsm, sessions: 1 }, config.hsm.tokens.site);
  try {
    await ensureKeys(token, config.secondLogKey);
    await issueInfrastructure(config, token);
    await writePublicKeys(config, token);
  } finally {
    await token.close();
  }
  // The original image of an esp-secure-cert injection: the partition as a chip has it before provisioning.
  await ensureErasedPartition(join(config.firmwareDir, "esp-secure-cert.bin"));
  if (config.role === "manufacturer") writeCeremonyConfig(config, resolve(file));

  const db = connect(config.database.url, {
    password: readFileSync(config.database.passwordFile, "utf8").trim(),
    max: 2,
  });
  try {
    await migrate(db);
  } finally {
    await db.end();
  }
}

async function ensureKeys(token: Token, second: string | undefined): Promise<void> {
  if (!(await token.hasKey("act"))) await token.generateKey({ label: "act", algorithm: "ec-p256" });
  for (const label of ["log", "witness"]) {
    if (!(await token.hasKey(label))) await token.generateKey({ label, algorithm: "ed25519" });
  }
  if (second !== undefined && !(await token.hasKey(second))) {
    await token.generateKey({ label: second, algorithm: "ec-p256" });
  }
  if (!(await token.hasKey("image"))) await token.generateImageKey({ label: "image", algorithm: "ec-p256" });
  if (!(await token.hasKey("infra"))) await token.generateCaKey({ label: "infra", algorithm: "ec-p256" });
}

async function issueInfrastructure(config: SiteConfig, token: Token): Promise<void> {
  const { organization, party, gateway } = config;
  const key = await token.caKey("infra");
  const certificate = await ensureInfrastructureCa(key, gateway.tls.clientCaFile, {
    organization,
    commonName: `${config.name} infrastructure`,
  });
  const ca = { key, certificate };
  const hosts = [new URL(gateway.url).hostname, ...(gateway.host === "0.0.0.0" ? [] : [gateway.host])];
  await ensureServer(ca, gateway.tls, { organization, commonName: `${party} gateway` }, hosts);
  if (config.hub !== undefined) {
    const files = { keyFile: join(infraFolder(config), "hub.key"), certFile: join(infraFolder(config), "hub.pem") };
    // Its device provisioning has an address of its own: 127.0.0.2 unless asked for otherwise.
    const names = [new URL(config.hub.url).hostname, "127.0.0.2"];
    await ensureServer(ca, files, { organization, commonName: "hub" }, names);
  }
  for (const role of CLIENT_ROLES) {
    const base = join(infraFolder(config), role);
    await ensureClient(
      ca,
      { keyFile: `${base}.key`, certFile: `${base}.pem` },
      { organization, commonName: `${role}@${party}`, organizationalUnit: role },
    );
  }
}

/** The log's and the witness's verifier keys, for whoever writes other sites' witness policies. */
async function writePublicKeys(config: SiteConfig, token: Token): Promise<void> {
  const { party, origin } = config;
  const keys = { origin, log: await token.signer("log"), witness: await token.signer("witness") };
  const file = { party, vkey: logVkey(keys), witnessVkey: witnessVkey(keys) };
  writeFileSync(join(infraFolder(config), "vkeys.json"), `${JSON.stringify(file, null, 2)}\n`);
}

/** The root token has a SoftHSM of its own, beside the site: only the ceremony process is given this file. */
function writeCeremonyConfig(config: SiteConfig, siteConfig: string): void {
  const folder = join(dirname(siteConfig), "root");
  const file = join(folder, "ceremony.json");
  if (existsSync(file)) return;
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const ceremony: CeremonyConfig = {
    schema: "countersign/ceremony/v1",
    siteConfig,
    hsm: {
      module: config.hsm.module,
      ...(config.hsm.softhsm2Conf === undefined ? {} : { softhsm2Conf: "softhsm/softhsm2.conf" }),
      sessions: 2,
      token: { uri: `pkcs11:token=${config.party}-root`, pinFile: "secrets/token-root.pin" },
    },
  };
  writeFileSync(file, `${JSON.stringify(ceremony, null, 2)}\n`, { mode: 0o600 });
}

if (import.meta.main) {
  try {
    const { values } = parseArgs({ options: { config: { type: "string" } } });
    if (values.config === undefined) throw new CountersignError("usage", "usage: init.ts --config FILE");
    await initSite(values.config);
  } catch (error) {
    process.stderr.write(`countersign init: ${error instanceof Error ? error.message : String(error)}\n`);
    process.exitCode = exitCodeOf(error);
  }
}
