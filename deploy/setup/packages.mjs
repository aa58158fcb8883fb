// The system's own package manager: apt is what is tested; dnf and brew are written from their documentation.
import { ask, run, say, SetupError, which } from "./run.mjs";

const MANAGERS = [
  {
    name: "apt",
    program: "apt-get",
    asRoot: true,
    refresh: ["apt-get", "update", "-q"],
    install: ["apt-get", "install", "-y", "-q", "--no-install-recommends"],
    env: { DEBIAN_FRONTEND: "noninteractive" },
  },
  { name: "dnf", program: "dnf", asRoot: true, install: ["dnf", "install", "-y"], env: {} },
  { name: "brew", program: "brew", asRoot: false, install: ["brew", "install"], env: {} },
];

/**
 * Installs what the needs name, after saying so.
 *
 * @throws SetupError (exit 3) with the exact command when we may not install or don't know how
 */
export function installPackages(missing) {
  if (missing.length === 0) return;
  const manager = MANAGERS.find(({ program }) => which(program) !== null);
  const required = missing.filter((need) => need.optional !== true);
  if (manager === undefined) {
    if (required.length === 0) return;
    throw new SetupError(`no apt, dnf or brew here; please install: ${required.map(({ what }) => what).join("; ")}`);
  }
  const sudo = elevation(manager);
  if (sudo === null) {
    if (required.length === 0) return;
    const command = `sudo ${[...manager.install, ...packagesOf(missing, manager)].join(" ")}`;
    throw new SetupError(
      `missing: ${required.map(({ what }) => what).join("; ")}. This account may not install; run:\n${command}`,
    );
  }
  const packages = packagesOf(missing, manager);
  if (packages.length === 0) return;
  say(`installing with ${manager.name}: ${packages.join(" ")}`);
  for (const { what } of missing) say(`  for ${what}`);
  const env = sudo.length === 0 ? manager.env : {};
  const prefix = sudo.length === 0 ? [] : [...sudo, ...Object.entries(manager.env).map(([k, v]) => `${k}=${v}`)];
  const start = ([...command]) => {
    const [program, ...args] = [...prefix, ...command];
    return run(program, args, { env });
  };
  // A stale list is good enough when the refresh fails (no network, a mirror of packages on disk).
  if (manager.refresh !== undefined && !start(manager.refresh)) say("the package lists could not be refreshed");
  if (start([...manager.install, ...packages])) return;
  // One unknown optional package must not keep the others away.
  const needed = packagesOf(required, manager);
  if (needed.length < packages.length && (needed.length === 0 || start([...manager.install, ...needed]))) return;
  throw new SetupError(`${manager.name} could not install ${needed.join(" ")}; see its messages above`);
}

function packagesOf(needs, manager) {
  return [...new Set(needs.flatMap((need) => need[manager.name]))];
}

/** What to put before a command: nothing, sudo, or null when we may not install. */
function elevation(manager) {
  if (!manager.asRoot || process.getuid?.() === 0) return [];
  const sudo = which("sudo");
  return sudo !== null && ask(sudo, ["-n", "true"]) !== null ? [sudo, "-n", "env"] : null;
}
