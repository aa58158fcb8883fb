import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { PROJECT_ROOT, findPkcs11Module } from "../../apps/site/stack/machine.ts";

/** As in fault-pkcs11.c, in its order. */
const FUNCTIONS = [
  "C_Initialize",
  "C_Finalize",
  "C_GetSlotList",
  "C_GetTokenInfo",
  "C_OpenSession",
  "C_CloseSession",
  "C_GetSessionInfo",
  "C_Login",
  "C_FindObjectsInit",
  "C_FindObjects",
  "C_GetAttributeValue",
  "C_SignInit",
  "C_Sign",
  "C_GenerateKeyPair",
] as const;
export type Pkcs11Function = (typeof FUNCTIONS)[number];

/** The CKR_* numbers of PKCS#11 v2.40 that tests make the module answer with. */
export const CKR = {
  HOST_MEMORY: 0x2,
  GENERAL_ERROR: 0x5,
  FUNCTION_FAILED: 0x6,
  DEVICE_ERROR: 0x30,
  DEVICE_MEMORY: 0x31,
  DEVICE_REMOVED: 0x32,
  KEY_HANDLE_INVALID: 0x60,
  OBJECT_HANDLE_INVALID: 0x82,
  PIN_INCORRECT: 0xa0,
  PIN_LOCKED: 0xa4,
  SESSION_CLOSED: 0xb0,
  SESSION_COUNT: 0xb1,
  SESSION_HANDLE_INVALID: 0xb3,
  TOKEN_NOT_PRESENT: 0xe0,
  USER_NOT_LOGGED_IN: 0x101,
  CRYPTOKI_NOT_INITIALIZED: 0x190,
} as const;

export interface Fault {
  /** left out: every function */
  readonly function?: Pkcs11Function;
  /** the first call that has it, counted from when the faults were set; default 1 */
  readonly from?: number;
  /** how many calls; default all that follow */
  readonly count?: number;
  readonly does:
    | { readonly fail: keyof typeof CKR }
    | { readonly delayMs: number }
    | "hang"
    | "corrupt"
    | "empty"
    | "locked"
    | "restart";
}

/** SoftHSM behind a module that fails, delays, hangs or corrupts calls as it is told, in this process and its children. */
export class FaultHsm {
  /** the PKCS#11 module's path */
  readonly module: string;
  readonly #control: string;
  #written = 0;

  /** Call it before the module is opened; `folder` is for its files. */
  constructor(folder: string) {
    this.module = compiled();
    this.#control = join(folder, "faults");
    process.env["FAULT_PKCS11_MODULE"] = findPkcs11Module();
    process.env["FAULT_PKCS11_CONTROL"] = this.#control;
    this.set();
  }

  /** What goes wrong from now on; with no argument nothing does, and calls that hang return. */
  set(...faults: readonly Fault[]): void {
    const lines = faults.map(({ function: name, from, count, does }) => {
      const [action, argument] =
        typeof does === "string" ? [does, ""] : "fail" in does ? ["fail", CKR[does.fail]] : ["delay", does.delayMs];
      return `${name ?? "*"} ${from ?? 1} ${count ?? 0} ${action} ${argument}\n`;
    });
    // A new file each time, so that the module never reads half of one.
    const fresh = `${this.#control}.${++this.#written}`;
    writeFileSync(fresh, lines.join(""), { mode: 0o600 });
    renameSync(fresh, this.#control);
  }

  /** How often a function was called since the module was loaded. */
  calls(name: Pkcs11Function): number {
    return this.#counter(FUNCTIONS.indexOf(name));
  }

  /** Signatures that keys labelled "ca" have made, through whichever process: what a real HSM's usage counter tells. */
  caSignatures(): number {
    return this.#counter(FUNCTIONS.length);
  }

  /** Where that counter is: a 64-bit number, little-endian, at this offset of the file. */
  get caCounter(): { readonly file: string; readonly offset: number } {
    return { file: `${this.#control}.calls`, offset: 8 * FUNCTIONS.length };
  }

  #counter(index: number): number {
    const { file } = this.caCounter;
    return existsSync(file) ? Number(readFileSync(file).readBigUInt64LE(8 * index)) : 0;
  }
}

/** Compiled once for each version of its source. */
function compiled(): string {
  const source = join(PROJECT_ROOT, "test", "support", "fault-pkcs11.c");
  const digest = createHash("sha256").update(readFileSync(source)).digest("hex").slice(0, 16);
  const folder = join(PROJECT_ROOT, ".cache", "test");
  const library = join(folder, `fault-pkcs11-${digest}.so`);
  if (!existsSync(library)) {
    mkdirSync(folder, { recursive: true });
    const headers = join(PROJECT_ROOT, "node_modules", "pkcs11js", "includes", "pkcs11");
    const fresh = `${library}.${process.pid}`;
    const flags = ["-O2", "-Wall", "-fPIC", "-shared", "-pthread", `-isystem${headers}`];
    execFileSync("gcc", [...flags, "-o", fresh, source, "-ldl"], { stdio: ["ignore", "inherit", "inherit"] });
    renameSync(fresh, library);
  }
  return library;
}
