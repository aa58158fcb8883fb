import { accessSync, constants } from "node:fs";
import { dirname, join } from "node:path";
import { CountersignError } from "../../lib/domain/errors.ts";

const SOFTHSM_PLACES = [
  "/usr/lib/softhsm/libsofthsm2.so",
  "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
  "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
  "/usr/lib64/pkcs11/libsofthsm2.so",
  "/opt/homebrew/lib/softhsm/libsofthsm2.so",
  "/usr/local/lib/softhsm/libsofthsm2.so",
];

/** Debian's multiarch folders and Fedora's. */
const PKCS11_FOLDERS = ["/usr/lib/x86_64-linux-gnu/pkcs11", "/usr/lib/aarch64-linux-gnu/pkcs11", "/usr/lib64/pkcs11"];
const P11_KIT_SERVERS = ["/usr/libexec/p11-kit/p11-kit-server", "/usr/lib/p11-kit/p11-kit-server"];

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

/** The PKCS#11 module over a TPM 2, tpm2-pkcs11. @throws CountersignError `component-missing` */
export function tpmModule(): string {
  const places = PKCS11_FOLDERS.map((folder) => join(folder, "libtpm2_pkcs11.so"));
  return firstReadable("COUNTERSIGN_TPM_MODULE", places, "the PKCS#11 module of a TPM 2 (libtpm2-pkcs11-1)");
}

/** p11-kit's server, and the module that reaches what it serves. @throws CountersignError `component-missing` */
export function keyServer(): { program: string; client: string } {
  const places = PKCS11_FOLDERS.map((folder) => join(folder, "p11-kit-client.so"));
  return {
    program: firstReadable("COUNTERSIGN_P11_KIT_SERVER", P11_KIT_SERVERS, "p11-kit's server (p11-kit)"),
    client: firstReadable("COUNTERSIGN_P11_KIT_CLIENT", places, "p11-kit's client module (p11-kit-modules)"),
  };
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
