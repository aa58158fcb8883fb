import { accessSync, constants } from "node:fs";
import { dirname } from "node:path";
import { CountersignError } from "../../lib/domain/errors.ts";

const SOFTHSM_PLACES = [
  "/usr/lib/softhsm/libsofthsm2.so",
  "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
  "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
  "/usr/lib64/pkcs11/libsofthsm2.so",
  "/opt/homebrew/lib/softhsm/libsofthsm2.so",
  "/usr/local/lib/softhsm/libsofthsm2.so",
];

const ENGINE_PLACES = [
  "/usr/lib/x86_64-linux-gnu/engines-3/pkcs11.so",
  "/usr/lib/aarch64-linux-gnu/engines-3/pkcs11.so",
  "/usr/lib64/engines-3/pkcs11.so",
  "/opt/homebrew/lib/engines-3/pkcs11.dylib",
  "/usr/local/lib/engines-3/pkcs11.dylib",
];

/** SoftHSM's PKCS#11 module, or the one that COUNTERSIGN_PKCS11_MODULE names. @throws CountersignError `component-missing` */
export function pkcs11Module(): string {
  return firstReadable("COUNTERSIGN_PKCS11_MODULE", SOFTHSM_PLACES, "the PKCS#11 module of SoftHSM 2 (softhsm2)");
}

/**
 * The folder of OpenSSL's PKCS#11 engine, for OPENSSL_ENGINES; the engine is then loaded by its name, `pkcs11`. By path
 * Node could load it only once in a process.
 * @throws CountersignError `component-missing`
 */
export function engineFolder(): string {
  const what = "OpenSSL's PKCS#11 engine (libengine-pkcs11-openssl)";
  return dirname(firstReadable("COUNTERSIGN_OPENSSL_ENGINE", ENGINE_PLACES, what));
}

function firstReadable(variable: string, places: readonly string[], what: string): string {
  const named = process.env[variable];
  for (const place of named === undefined ? places : [named]) {
    try {
      accessSync(place, constants.R_OK);
      return place;
    } catch {
      // Not there.
    }
  }
  throw new CountersignError("component-missing", `${what} isn't on this machine: install it, or set ${variable}`);
}
