import { randomBytes } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Connection } from "@temporalio/client";
import { msToTs } from "@temporalio/common/lib/time.js";
import { inject } from "vitest";
import { CACHE_DIR, findPkcs11Module, PROJECT_ROOT, readMachine, which } from "../../apps/site/stack/machine.ts";

export { findOpensslEngine, findPkcs11Module, findTemporal, PROJECT_ROOT } from "../../apps/site/stack/machine.ts";

export interface TestDatabase {
  readonly name: string;
  /** postgres:// URL of a role that owns this empty database and can reach no other. Dropped after the run. */
  readonly url: string;
  /** The administrator's URL, for tests that look at the server itself. */
  readonly adminUrl: string;
}

/** A fresh, empty database on the run's shared Postgres. Ask for one per suite. */
export async function testDatabase(): Promise<TestDatabase> {
  return (await ask("database")) as TestDatabase;
}

/** As in Temporal's IndexedValueType. */
const ATTRIBUTE_TYPES = { Text: 1, Keyword: 2, Int: 3, Double: 4, Bool: 5, Datetime: 6, KeywordList: 7 } as const;

export interface TestTemporal {
  /** host:port of the run's shared Temporal dev server. */
  readonly address: string;
  /** A namespace of this caller's own. */
  readonly namespace: string;
}

/** A fresh namespace on the run's shared Temporal, with the search attributes named (`{ LotId: "Keyword" }`). */
export async function testTemporal(
  options: { searchAttributes?: Readonly<Record<string, keyof typeof ATTRIBUTE_TYPES>> } = {},
): Promise<TestTemporal> {
  const { address } = (await ask("temporal")) as { address: string };
  const namespace = `test-${randomBytes(6).toString("hex")}`;
  const searchAttributes = Object.fromEntries(
    Object.entries(options.searchAttributes ?? {}).map(([name, type]) => [name, ATTRIBUTE_TYPES[type]]),
  );
  const connection = await Connection.connect({ address });
  try {
    await connection.workflowService.registerNamespace({
      namespace,
      workflowExecutionRetentionPeriod: msToTs("1 day"),
    });
    if (Object.keys(searchAttributes).length > 0) {
      await connection.operatorService.addSearchAttributes({ namespace, searchAttributes });
    }
  } finally {
    await connection.close();
  }
  return { address, namespace };
}

/** A fresh folder (0700) that goes with the run. */
export function tempDir(prefix = "t"): string {
  const { tempRoot } = inject("support");
  return mkdtempSync(join(tempRoot, `${prefix}-`));
}

export interface SoftHsm {
  /** The PKCS#11 module's path. */
  readonly module: string;
  readonly dir: string;
  /** The softhsm2.conf; its tokens are in `dir`/tokens. */
  readonly conf: string;
  /** For child processes (pkcs11-tool, openssl): the variables that lead them to these tokens. */
  readonly env: { readonly SOFTHSM2_CONF: string };
}

/**
 * An empty SoftHSM of this test file's own, and the one that this process uses from now on. SoftHSM reads
 * SOFTHSM2_CONF once, at C_Initialize: call it before the module is opened, once per test file (each file has its own
 * process). For a second token store in one file use `softHsmStore` and a child process.
 */
export function softhsmDir(): SoftHsm {
  const store = softHsmStore();
  process.env["SOFTHSM2_CONF"] = store.conf;
  return store;
}

/** A token store that this process doesn't use itself. */
export function softHsmStore(dir = tempDir("softhsm")): SoftHsm {
  const tokens = join(dir, "tokens");
  const conf = join(dir, "softhsm2.conf");
  mkdirSync(tokens, { recursive: true, mode: 0o700 });
  writeFileSync(
    conf,
    `directories.tokendir = ${tokens}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n`,
    { mode: 0o600 },
  );
  return { module: findPkcs11Module(), dir, conf, env: { SOFTHSM2_CONF: conf } };
}

const DEBIAN_PACKAGES: Readonly<Record<string, string>> = {
  openssl: "openssl",
  "pkcs11-tool": "opensc",
  "softhsm2-util": "softhsm2",
  gcc: "gcc",
  "ssh-agent": "openssh-client",
  "ssh-add": "openssh-client",
  "ssh-keygen": "openssh-client",
  e2fsck: "e2fsprogs",
  mke2fs: "e2fsprogs",
  debugfs: "e2fsprogs",
  srec_cat: "srecord",
  "arm-none-eabi-objcopy": "binutils-arm-none-eabi",
  "qemu-system-arm": "qemu-system-arm",
};

/** The path of an outside judge. A machine without it fails the test, with the command that installs it. */
export function tool(name: string): string {
  const path = which(name);
  if (path !== undefined) return path;
  throw new Error(`${name} is missing; install it with: apt-get install -y ${DEBIAN_PACKAGES[name] ?? name}`);
}

/** A program of the test set-up's Python environment (esp-secure-cert-tool, intelhex), or its `python`. */
export function pythonTool(name: string): string {
  const bin = join(PROJECT_ROOT, ".cache", "python", "bin");
  const path = which(name, bin);
  if (path?.startsWith(bin) === true) return path;
  throw new Error(`${name} isn't in ${bin}: run node deploy/setup.mjs --for test`);
}

/** A pinned firmware image that set-up fetched; the first one when no name is given. */
export function firmware(name?: string): { name: string; path: string; sha256: string } {
  const image = readMachine().firmware.find((candidate) => name === undefined || candidate.name === name);
  if (image === undefined) throw new Error(`no firmware image ${name ?? ""}: run node deploy/setup.mjs`);
  return image;
}

/** A real image of a format's own, from a registry (deploy/setup/test-images.mjs). */
export function testImage(file: string): Uint8Array {
  const path = join(CACHE_DIR, "images", file);
  if (existsSync(path)) return new Uint8Array(readFileSync(path));
  const cargo = which("cargo") === undefined ? "install cargo with `curl -sSf https://sh.rustup.rs | sh`, then " : "";
  throw new Error(`${path} is missing: ${cargo}run node deploy/setup.mjs --for test`);
}

async function ask(what: "database" | "temporal"): Promise<unknown> {
  const response = await fetch(`${inject("support").url}/${what}`);
  if (!response.ok) throw new Error(`no ${what} for this test: ${await response.text()}`);
  return response.json();
}
