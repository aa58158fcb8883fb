import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import {
  assertThreadsFor,
  createPinFile,
  type HsmLimits,
  initToken,
  openToken,
  parsePkcs11Uri,
  threadsForSessions,
  tokenExists,
  type Token,
  type TokenConfig,
} from "../../hsm/index.ts";
import { CountersignError } from "../../lib/domain/errors.ts";

export interface TokenSettings {
  readonly module: string;
  readonly softhsm2Conf?: string | undefined;
  readonly sessions: number;
  readonly limits?: { readonly [K in keyof HsmLimits]?: HsmLimits[K] | undefined } | undefined;
}

export interface TokenEntry {
  readonly uri: string;
  readonly pinFile: string;
}

/**
 * Leads this process to its own SoftHSM, and to no other: the module reads SOFTHSM2_CONF once, when it is first opened.
 * An SOFTHSM2_CONF that is set already (by whoever started the process) stands.
 */
export function useSoftHsm(settings: TokenSettings): void {
  if (settings.softhsm2Conf !== undefined) process.env["SOFTHSM2_CONF"] ??= settings.softhsm2Conf;
}

/** Makes SoftHSM's configuration and token folder where they aren't there yet. */
export function ensureSoftHsm(settings: TokenSettings): void {
  const conf = settings.softhsm2Conf;
  if (conf === undefined || existsSync(conf)) return;
  const tokens = join(dirname(conf), "tokens");
  mkdirSync(tokens, { recursive: true, mode: 0o700 });
  const text = `directories.tokendir = ${tokens}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n`;
  writeFileSync(conf, text, { mode: 0o600 });
}

/** Makes the token with a random PIN in its file, where either is missing. Gives true when the token is new. */
export async function ensureToken(settings: TokenSettings, entry: TokenEntry): Promise<boolean> {
  const { token: label } = parsePkcs11Uri(entry.uri);
  if (label === undefined) throw new CountersignError("input-invalid", `${entry.uri} doesn't name a token (token=...)`);
  // The PIN is on disk before the token has it: a crash in between leaves a PIN without a token, never the reverse.
  if (!existsSync(entry.pinFile)) {
    mkdirSync(dirname(entry.pinFile), { recursive: true, mode: 0o700 });
    await createPinFile(entry.pinFile);
  }
  if (tokenExists(settings.module, label)) return false;
  await initToken({ module: settings.module, label, pin: { file: entry.pinFile } });
  return true;
}

export function tokenConfig(settings: TokenSettings, entry: TokenEntry): TokenConfig {
  const given = Object.entries(settings.limits ?? {}).filter(([, value]) => value !== undefined);
  return {
    module: settings.module,
    uri: entry.uri,
    pin: { file: entry.pinFile },
    sessions: settings.sessions,
    limits: Object.fromEntries(given),
  };
}

/** @throws CountersignError as `openToken`; `input-invalid` when this process has too few threads for the sessions */
export async function openConfigured(settings: TokenSettings, entry: TokenEntry): Promise<Token> {
  assertThreadsFor(settings.sessions);
  return openToken(tokenConfig(settings, entry));
}

export interface SiteTokens extends TokenSettings {
  readonly processes: number;
  readonly tokens: { readonly site: TokenEntry; readonly ca?: TokenEntry | undefined };
}

/** With issuing processes, the site's own process signs only CRLs and its children's CAs with the CA's token. */
export function caSettings(hsm: SiteTokens): TokenSettings {
  return hsm.processes > 0 ? { ...hsm, sessions: 1 } : hsm;
}

/** UV_THREADPOOL_SIZE for a site's process. libuv reads it once: whoever starts the process sets it. */
export function siteThreads(hsm: SiteTokens): number {
  return threadsForSessions(hsm.sessions + (hsm.tokens.ca === undefined ? 0 : caSettings(hsm).sessions));
}
