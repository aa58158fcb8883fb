import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describeKeys, openToken } from "../hsm/index.ts";
import { rawSignSpeed } from "../hsm/raw-speed.ts";
import { ensureSoftHsm, ensureToken, useSoftHsm } from "../apps/site/tokens.ts";
import { findPkcs11Module } from "../apps/site/stack/machine.ts";
import { pemEncode } from "../lib/pki/pem.ts";
import { benchRoot } from "./root.ts";

/**
 * The benchmark's own token, in a process that holds nothing else: SoftHSM reads its configuration once a process.
 *
 *   node bench/token-process.ts prepare DIR    a token with a CA key, and a chain for it; prints what a peer needs
 *   node bench/token-process.ts speed DIR S    raw C_Sign on it for S seconds
 */

const TOKEN = "bench";
const KEY = "ca";

export interface PreparedToken {
  readonly module: string;
  readonly softhsm2Conf: string;
  readonly token: string;
  /** by which a peer finds it */
  readonly serial: string;
  readonly pinFile: string;
  readonly keyLabel: string;
  /** CKA_ID, hex */
  readonly keyId: string;
  /** PEM files */
  readonly root: string;
  readonly intermediate: string;
}

async function prepare(dir: string): Promise<PreparedToken> {
  const settings = settingsIn(dir);
  const entry = { uri: `pkcs11:token=${TOKEN}`, pinFile: join(dir, "secrets", "token.pin") };
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  ensureSoftHsm(settings);
  useSoftHsm(settings);
  await ensureToken(settings, entry);
  const token = await openToken({ module: settings.module, uri: entry.uri, pin: { file: entry.pinFile } });
  const { serial } = token;
  const { spki } = await token.generateCaKey({ label: KEY, algorithm: "ec-p256" });
  await token.close();
  const [key] = (await describeKeys({ module: settings.module, uri: entry.uri, pin: { file: entry.pinFile } })).filter(
    (one) => one.label === KEY,
  );

  const root = benchRoot();
  const subject = { organization: "Bench", commonName: "Bench CA" };
  const intermediate = root.issue("intermediate-embedded", { subject, spki, pathLen: 0 });
  const files = { root: join(dir, "root.pem"), intermediate: join(dir, "intermediate.pem") };
  writeFileSync(files.root, pemEncode("CERTIFICATE", root.certificate));
  writeFileSync(files.intermediate, pemEncode("CERTIFICATE", intermediate));
  return {
    module: settings.module,
    softhsm2Conf: settings.softhsm2Conf,
    token: TOKEN,
    serial,
    pinFile: entry.pinFile,
    keyLabel: KEY,
    keyId: key!.id,
    ...files,
  };
}

function settingsIn(dir: string) {
  return { module: findPkcs11Module(), softhsm2Conf: join(dir, "softhsm", "softhsm2.conf"), sessions: 1 };
}

function speed(dir: string, seconds: number) {
  const settings = settingsIn(dir);
  useSoftHsm(settings);
  const pin = readFileSync(join(dir, "secrets", "token.pin"), "utf8").trim();
  return rawSignSpeed({ module: settings.module, token: TOKEN, pin, label: KEY, seconds });
}

const [command, dir, seconds] = process.argv.slice(2);
if (import.meta.main) {
  if (command === "prepare" && dir !== undefined) process.stdout.write(JSON.stringify(await prepare(dir)));
  else if (command === "speed" && dir !== undefined)
    process.stdout.write(JSON.stringify(speed(dir, Number(seconds ?? 2))));
  else {
    process.stderr.write("usage: token-process.ts prepare DIR | speed DIR SECONDS\n");
    process.exitCode = 2;
  }
}
