import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { chmod, mkdtemp, readFile, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { stackFile, type StackFile } from "../../apps/site/stack/stack-file.ts";
import { countersign, ROOT } from "./countersign.ts";

/** The stack as people start, look at and stop it. */

let dir: string;
let env: NodeJS.ProcessEnv;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "countersign-life-"));
  await chmod(dir, 0o711); // the database runs as an account of its own
  env = { COUNTERSIGN_HOME: join(dir, "home"), HUB_PORT: "0", TMPDIR: dir };
});

afterAll(async () => {
  await countersign(["down"], env);
  await rm(dir, { recursive: true, force: true });
});

const alive = (pid: number) => {
  try {
    return !/^State:\s+Z/m.test(String(process.getBuiltinModule("node:fs").readFileSync(`/proc/${pid}/status`)));
  } catch {
    return false;
  }
};

async function until(what: () => boolean, timeoutMs: number): Promise<void> {
  const deadline = Date.now() + timeoutMs;
  while (!what()) {
    if (Date.now() > deadline) throw new Error("waited in vain");
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

async function up(): Promise<{ info: StackFile; pids: number[]; exited: Promise<number | null>; pid: number }> {
  const child = spawn(process.execPath, [join(ROOT, "apps/cli/main.ts"), "up"], {
    env: { ...process.env, ...env },
    stdio: "ignore",
  });
  const exited = new Promise<number | null>((resolve) => child.once("exit", (code) => resolve(code)));
  const file = join(env["COUNTERSIGN_HOME"]!, "stack.json");
  // One that a killed stack left behind names another process.
  const ours = () => existsSync(file) && readFileSync(file, "utf8").includes(`"pid": ${child.pid},`);
  await until(() => ours() || child.exitCode !== null, 120_000);
  const info = stackFile.parse(JSON.parse(readFileSync(file, "utf8")));
  const pids = [info.pid, info.hub.pid, ...info.sites.flatMap((site) => [site.pid, site.temporal.pid])];
  if (info.postgres.pid !== null) pids.push(info.postgres.pid);
  return { info, pids, exited, pid: child.pid! };
}

it("starts, tells where everything is, refuses a second start, and stops on down without a trace", async () => {
  expect((await countersign(["status"], env)).code).toBe(3);
  const stack = await up();
  const status = await countersign(["status", "--json"], env);
  expect(JSON.parse(status.stdout)).toMatchObject({
    running: true,
    sites: [{ id: "company-x" }, { id: "factory-y" }, { id: "technician-z" }],
  });
  expect(stack.pids.every(alive)).toBe(true);
  const second = await countersign(["up"], env);
  expect(second.code).toBe(1);
  expect(second.stderr).toContain("already runs");

  expect((await countersign(["down"], env)).code).toBe(0);
  expect(await stack.exited).toBe(0);
  expect(stack.pids.filter(alive)).toEqual([]);
  expect((await countersign(["status"], env)).code).toBe(3);
}, 240_000);

it("stops soon when it is interrupted while it starts", async () => {
  const child = spawn(process.execPath, [join(ROOT, "apps/cli/main.ts"), "up"], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "ignore", "pipe"],
  });
  let said = "";
  child.stderr.setEncoding("utf8").on("data", (part: string) => (said += part));
  const exited = new Promise<number | null>((resolve) => child.once("exit", (code) => resolve(code)));
  await until(() => said.includes("starting Postgres"), 60_000);
  child.kill("SIGINT");
  expect(await exited, said).toBe(3);
  expect(said).toContain("[interrupted]");
  expect(said).not.toContain("starting tokens");
  expect(existsSync(join(env["COUNTERSIGN_HOME"]!, "stack.json"))).toBe(false);
}, 120_000);

it("keeps secrets out of logs, configurations and command lines", async () => {
  const stack = await up();
  const home = env["COUNTERSIGN_HOME"]!;
  const names = await readdir(home, { recursive: true, withFileTypes: true });
  const files = names.filter((name) => name.isFile()).map((name) => join(name.parentPath, name.name));
  const secrets = await Promise.all(
    files.filter((file) => /\/secrets\//.test(file)).map((file) => readFile(file, "utf8")),
  );
  expect(secrets.length).toBeGreaterThan(6);
  const open = files.filter((file) => /\.(log|json)$/.test(file));
  for (const file of open) {
    const text = await readFile(file, "utf8");
    for (const secret of secrets) expect(text.includes(secret.trim()), `${file} holds a secret`).toBe(false);
  }
  for (const pid of stack.pids) {
    const args = await readFile(`/proc/${pid}/cmdline`, "utf8");
    for (const secret of secrets) expect(args.includes(secret.trim())).toBe(false);
  }
  process.kill(stack.pid, "SIGINT");
  expect(await stack.exited).toBe(0);
  expect(stack.pids.filter(alive)).toEqual([]);
}, 240_000);

it("leaves no process behind when it is killed", async () => {
  const stack = await up();
  process.kill(stack.pid, "SIGKILL");
  await until(() => !stack.pids.some(alive), 60_000);
  // And it starts again from what was left.
  const again = await up();
  process.kill(again.pid, "SIGTERM");
  expect(await again.exited).toBe(0);
}, 300_000);
