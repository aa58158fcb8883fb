import { accessSync, constants, readFileSync, statSync } from "node:fs";
import { delimiter, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { CountersignError } from "../../../lib/domain/errors.ts";

/** The root of the clone or of the installed package. */
export const PROJECT_ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "../../..");

/** Where set-up keeps what it fetched. */
export const CACHE_DIR = join(PROJECT_ROOT, ".cache");

const Firmware = z.object({ name: z.string(), path: z.string(), sha256: z.string(), source: z.string() });

const Machine = z.object({
  temporal: z.string().nullable(),
  pkcs11Module: z.string().nullable(),
  opensslEngine: z.string().nullable(),
  pkcs11Tool: z.string().nullable(),
  firmware: z.array(Firmware),
});

/** What `deploy/setup.mjs` found or installed; written to `.cache/machine.json`. Paths are absolute. */
export type Machine = z.infer<typeof Machine>;

export type FirmwareImage = z.infer<typeof Firmware>;

/** @throws CountersignError component-missing when set-up never ran here */
export function readMachine(file = join(CACHE_DIR, "machine.json")): Machine {
  try {
    return Machine.parse(JSON.parse(readFileSync(file, "utf8")));
  } catch (cause) {
    throw new CountersignError("component-missing", `this machine isn't set up: run node deploy/setup.mjs`, { cause });
  }
}

/** The program's absolute path, from PATH alone; undefined when it isn't there. */
export function which(program: string, path = process.env["PATH"] ?? ""): string | undefined {
  // Administrators' folders aren't on every user's PATH, though what we look for there (e2fsck) needs no rights.
  for (const folder of [...path.split(delimiter), "/usr/sbin", "/sbin"]) {
    if (folder === "") continue;
    const file = join(folder, program);
    try {
      accessSync(file, constants.X_OK);
      if (statSync(file).isFile()) return file;
    } catch {
      // Not in this folder.
    }
  }
  return undefined;
}

/** @throws CountersignError component-missing */
export function findTemporal(): string {
  return found(
    process.env["COUNTERSIGN_TEMPORAL"] ?? tryMachine()?.temporal ?? which("temporal"),
    "the Temporal CLI is missing: run node deploy/setup.mjs, or install it and have it on PATH",
  );
}

/** SoftHSM's PKCS#11 module, or the one that COUNTERSIGN_PKCS11_MODULE names. @throws CountersignError component-missing */
export function findPkcs11Module(): string {
  return found(
    process.env["COUNTERSIGN_PKCS11_MODULE"] ?? tryMachine()?.pkcs11Module,
    "no PKCS#11 module: run node deploy/setup.mjs (installs SoftHSM 2), or set COUNTERSIGN_PKCS11_MODULE",
  );
}

/** OpenSSL's PKCS#11 engine, for TLS keys in a token. @throws CountersignError component-missing */
export function findOpensslEngine(): string {
  return found(
    process.env["COUNTERSIGN_OPENSSL_ENGINE"] ?? tryMachine()?.opensslEngine,
    "OpenSSL's PKCS#11 engine is missing: run node deploy/setup.mjs, or set COUNTERSIGN_OPENSSL_ENGINE",
  );
}

function tryMachine(): Machine | undefined {
  try {
    return readMachine();
  } catch {
    return undefined;
  }
}

function found(path: string | null | undefined, message: string): string {
  if (path === undefined || path === null || path === "") throw new CountersignError("component-missing", message);
  return path;
}
