import { spawn, execFileSync, type ChildProcess } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Client, Connection } from "@temporalio/client";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { Stack } from "../../apps/site/stack/stack.ts";
import { SiteClient } from "../../apps/cli/site-client.ts";
import { connect } from "../../store/db.ts";
import { findPkcs11Module, tool } from "../support/index.ts";
import { descendants, processHolds } from "../support/process-memory.ts";
import { countersign, ROOT } from "./countersign.ts";

/** Three site processes and a ceremony, from invitation to acceptance, as operators do it; and what no process may hold. */

let dir: string;
let home: string;
let env: NodeJS.ProcessEnv;
let stack: Stack;
let sites: Record<"x" | "y" | "z", SiteClient>;
let revived: ChildProcess | undefined;
const PARTY = { x: "company-x", y: "factory-y", z: "technician-z" } as const;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "countersign-parties-"));
  home = join(dir, "home");
  env = { COUNTERSIGN_HOME: home, HUB_PORT: "0" };
  process.env["HUB_PORT"] = env["HUB_PORT"];
  stack = await Stack.start({ home });
  const open = (party: string): Promise<SiteClient> => SiteClient.open(party, { home });
  sites = { x: await open(PARTY.x), y: await open(PARTY.y), z: await open(PARTY.z) };
}, 180_000);

afterAll(async () => {
  for (const site of Object.values(sites ?? {})) site.close();
  if (revived && revived.exitCode === null) {
    const ended = new Promise((done) => revived!.once("exit", done));
    revived.kill("SIGTERM");
    await ended;
  }
  await stack?.stop();
  await rm(dir, { recursive: true, force: true });
}, 120_000);

const file = (name: string): string => join(dir, name);
const secret = (...path: string[]): string => readFileSync(join(home, ...path), "utf8").trim();
const pidOf = (party: string): number => stack.info.sites.find(({ id }) => id === party)!.pid;

async function query<T extends object>(party: string, sql: string): Promise<T[]> {
  const config = JSON.parse(readFileSync(join(home, party, "site.json"), "utf8")) as { database: { url: string } };
  const db = connect(config.database.url, { password: secret(party, "secrets", "db.password"), max: 1 });
  try {
    return (await db.query<T>(sql)).rows;
  } finally {
    await db.end();
  }
}

async function temporal<T>(party: string, namespace: string, work: (client: Client) => Promise<T>): Promise<T> {
  const { address } = stack.info.sites.find(({ id }) => id === party)!.temporal;
  const connection = await Connection.connect({ address });
  try {
    return await work(new Client({ connection, namespace }));
  } finally {
    await connection.close();
  }
}

async function until(done: () => boolean): Promise<void> {
  for (const deadline = Date.now() + 30_000; !done(); await sleep(20)) {
    if (Date.now() > deadline) throw new Error("not in time");
  }
}

const terms = (change: object = {}) => ({
  idPrefixes: ["dev-"],
  profiles: ["idevid"],
  quota: 1000,
  notBefore: new Date().toISOString(),
  notAfter: new Date(Date.now() + 365 * 86_400_000).toISOString(),
  pathLen: 0,
  depth: 0,
  ...change,
});

async function ok(args: readonly string[]): Promise<string> {
  const run = await countersign(args, env);
  if (run.code !== 0) throw new Error(`${args.join(" ")} exited ${run.code}: ${run.stderr}`);
  return run.stdout;
}

describe("the root's side", () => {
  it("invites, and the factory joins", async () => {
    writeFileSync(file("invitation.json"), await ok(["party", "invite", PARTY.y, "--site", PARTY.x]), { mode: 0o600 });
    expect(await ok(["party", "join", file("invitation.json"), "--site", PARTY.y])).toContain("asked company-x");
    const { pending } = await sites.x.poll<{ pending: { child: string; csrSha256: string }[] }>(
      "/api/v1/joins",
      (joins) => joins.pending.length > 0,
    );
    expect(pending).toMatchObject([{ child: PARTY.y, state: "joined" }]);
    const again = await countersign(["party", "invite", PARTY.y, "--site", PARTY.x], env);
    expect(again).toMatchObject({ code: 1, stderr: expect.stringContaining("already-exists") });
  });

  it("delegates nothing outside its ceremony", async () => {
    writeFileSync(file("early.json"), JSON.stringify(terms({ pathLen: 1, depth: 1 })));
    const early = await countersign(
      ["delegate", "--from", PARTY.x, "--to", PARTY.y, "--grant", file("early.json")],
      env,
    );
    expect(early).toMatchObject({ code: 1, stderr: expect.stringContaining("offline") });
  });

  it("holds the ceremony from the reviewed document, with a P-384 root, in a process that is gone afterwards", async () => {
    writeFileSync(
      file("y.json"),
      JSON.stringify(terms({ quota: 5000, pathLen: 1, depth: 1, notAfter: "2040-01-01T00:00:00.000Z" })),
    );
    const draft = ["ceremony", "draft", "--hub-name", "company-x-root", "--key", "ec-p384"];
    writeFileSync(file("ceremony.yaml"), await ok([...draft, "--grant", `${PARTY.y}=${file("y.json")}`]));
    expect(await ok(["ceremony", "show", file("ceremony.yaml")])).toMatch(/ec-p384[^]*factory-y: request [0-9a-f]{64}/);

    const holders = () => [...descendants().values()].filter((command) => command.includes("apps/site/ceremony.ts"));
    const running = countersign(["ceremony", "run", file("ceremony.yaml"), "--json"], env);
    await until(() => holders().length === 1);
    const { code, stdout, stderr } = await running;
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    expect(JSON.parse(stdout)).toMatchObject({ children: [PARTY.y], hub: "company-x-root" });
    expect(holders()).toEqual([]);
    const accepted = await sites.x.poll<{ state: string }>(
      `/api/v1/delegations/${PARTY.y}`,
      ({ state }) => state === "accepted",
    );
    expect(accepted).toMatchObject({ state: "accepted", signer: "ceremony" });
  });

  it("gives the same root when the ceremony is run again, and refuses another document", async () => {
    const first = (await sites.x.get<{ rootSha256: string }>("/api/v1/site")).rootSha256;
    expect(JSON.parse(await ok(["ceremony", "run", file("ceremony.yaml"), "--json"]))).toMatchObject({
      rootSha256: first,
    });
    writeFileSync(file("other.yaml"), readFileSync(file("ceremony.yaml"), "utf8").replace("5000", "9999999"));
    expect(await countersign(["ceremony", "run", file("other.yaml")], env)).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("another document"),
    });
    expect(await query(PARTY.x, "SELECT count(*)::int AS n FROM ca_intent")).toEqual([{ n: 4 }]);
  });

  it("serves a CRL that openssl takes, for a chain that openssl takes", async () => {
    const { ca, root } = await sites.y.get<{ ca: string; root: string }>("/api/v1/site");
    writeFileSync(file("root.pem"), root);
    writeFileSync(file("y.pem"), ca);
    const openssl = (...args: string[]): string => execFileSync(tool("openssl"), args, { encoding: "utf8" });
    const url = /URI:(http:\/\/\S+)/.exec(openssl("x509", "-in", file("y.pem"), "-noout", "-text"))?.[1];
    const answer = await fetch(url!);
    expect(answer.headers.get("content-type")).toBe("application/pkix-crl");
    writeFileSync(file("crl.der"), Buffer.from(await answer.arrayBuffer()));
    openssl("crl", "-inform", "DER", "-in", file("crl.der"), "-out", file("crl.pem"));
    const checks = ["-x509_strict", "-crl_check", "-CAfile", file("root.pem"), "-CRLfile", file("crl.pem")];
    expect(openssl("verify", ...checks, file("y.pem"))).toContain("OK");
    const y = await sites.y.get<{ publicUrl: string }>("/api/v1/site");
    expect((await fetch(`${y.publicUrl}/crl/0000000000000000.crl`)).status).toBe(404);
    expect((await fetch(`${y.publicUrl}/ledger/checkpoint`)).status).toBe(200);
    expect((await fetch(`${y.publicUrl}/api/v1/site`)).status).toBe(404);
  });

  it("registers its root at the hub with what the ceremony signed", async () => {
    await sites.x.post("/api/v1/hub-registrations", { name: "company-x-root" });
    const done = await sites.x.poll<{ state: string }>(
      "/api/v1/hub-registrations/company-x-root",
      ({ state }) => state === "registered" || state === "refused",
    );
    expect(done).toMatchObject({ state: "registered" });
    await sites.x.post("/api/v1/hub-registrations", { name: "nobody-asked" });
    const refused = await sites.x.poll<{ state: string }>(
      "/api/v1/hub-registrations/nobody-asked",
      ({ state }) => state !== "requested",
    );
    expect(refused).toMatchObject({ state: "refused", error: { code: "not-found" } });
  });
});

describe("a site killed in the middle of a delegation", () => {
  it("completes it after its restart: one act, one certificate, one debit", async () => {
    writeFileSync(file("z.json"), await ok(["party", "invite", PARTY.z, "--site", PARTY.y]), { mode: 0o600 });
    await ok(["party", "join", file("z.json"), "--site", PARTY.z]);
    await sites.y.poll<{ pending: unknown[] }>("/api/v1/joins", ({ pending }) => pending.length > 0);

    // With the child asleep, the delegation can't be through when its giver dies.
    process.kill(pidOf(PARTY.z), "SIGSTOP");
    try {
      await sites.y.post("/api/v1/delegations", { to: PARTY.z, grant: terms() });
      process.kill(pidOf(PARTY.y), "SIGKILL");
      await expect(sites.y.get("/api/v1/site")).rejects.toMatchObject({ code: "component-unreachable" });
    } finally {
      process.kill(pidOf(PARTY.z), "SIGCONT");
    }
    await revive(PARTY.y);
    await sites.y.poll<{ state: string }>(`/api/v1/delegations/${PARTY.z}`, ({ state }) => state === "accepted", {
      timeoutMs: 60_000,
    });
    const count = (sql: string) => query<{ n: number }>(PARTY.y, `SELECT count(*)::int AS n FROM ${sql}`);
    expect(await count("ledger_act WHERE type = 'delegation'")).toEqual([{ n: 1 }]);
    expect(await count("ca_intent WHERE kind = 'intermediate'")).toEqual([{ n: 1 }]);
    expect(await query(PARTY.y, "SELECT used, quota FROM grant_received")).toEqual([{ used: 1000, quota: 5000 }]);
    expect(await query(PARTY.z, "SELECT count(*)::int AS n FROM inbox WHERE type = 'delegation'")).toEqual([{ n: 1 }]);
  }, 120_000);

  it("shows the whole tree afterwards", async () => {
    expect(JSON.parse(await ok(["party", "tree", "--site", PARTY.z, "--json"]))).toMatchObject({
      party: PARTY.x,
      children: [{ party: PARTY.y, grant: { used: 1000, quota: 5000 }, children: [{ party: PARTY.z, children: [] }] }],
    });
    expect(await ok(["party", "list", "--site", PARTY.y])).toMatch(/company-x\s+parent[^]*technician-z\s+child/);
    expect(await ok(["party", "show", PARTY.z, "--site", PARTY.y])).toContain("delegation  accepted");
    expect((await countersign(["party", "show", "nobody", "--site", PARTY.y], env)).code).toBe(1);
  });

  it.each([
    ["another namespace", { idPrefixes: ["other-"] }, "grant-exceeded"],
    ["a longer window", { notAfter: "2041-01-01T00:00:00.000Z" }, "grant-exceeded"],
    ["a profile it doesn't have", { profiles: ["ldevid"] }, "profile-not-granted"],
    ["a deeper tree", { pathLen: 1, depth: 1 }, "delegation-too-deep"],
  ])("can't give away %s", async (_what, change, code) => {
    const asked = sites.y.post("/api/v1/delegations", { to: PARTY.z, grant: terms(change) });
    await expect(asked).rejects.toMatchObject({ code });
  });
});

/** Starts a site's process again as the stack would. */
async function revive(party: string): Promise<void> {
  const { PATH, HOME } = process.env;
  revived = spawn(process.execPath, [join(ROOT, "apps/site/main.ts"), "--config", join(home, party, "site.json")], {
    env: { PATH, HOME, UV_THREADPOOL_SIZE: "8" },
    stdio: ["ignore", "ignore", "ignore", "ipc"],
  });
  const client = await SiteClient.open(party, { home });
  try {
    for (const deadline = Date.now() + 60_000; ; await sleep(200)) {
      const ready = await client.get("/readyz").then(
        () => true,
        () => false,
      );
      if (ready) return;
      if (Date.now() > deadline || revived.exitCode !== null) throw new Error(`${party} doesn't come back`);
    }
  } finally {
    client.close();
  }
}

describe("what a process holds", () => {
  const pinOf = (party: string, name: string): string => secret(party, "secrets", `token-${name}.pin`);

  it("is not the root's PIN, in any process, once the ceremony is over", () => {
    const rootPin = secret(PARTY.x, "root", "secrets", "token-root.pin");
    const running = [...descendants()];
    for (const program of ["apps/site/main.ts", "apps/hub/main.ts", "temporal server", "bin/postgres"]) {
      expect(running.some(([, command]) => command.includes(program))).toBe(true);
    }
    for (const [pid] of running) expect({ pid, holds: processHolds(pid, [rootPin]) }).toEqual({ pid, holds: [] });
  }, 120_000);

  it("is not another party's PIN or database password", () => {
    const password = (party: string): string => secret(party, "secrets", "db.password");
    // The scan sees what is there: each process does hold its own password.
    expect(processHolds(pidOf(PARTY.x), [password(PARTY.x)])).toEqual([password(PARTY.x)]);
    expect(processHolds(revived!.pid!, [password(PARTY.y)])).toEqual([password(PARTY.y)]);
    const secretsOf = { [PARTY.x]: ["site"], [PARTY.y]: ["site", "ca"], [PARTY.z]: ["site", "ca"] };
    const pids = { [PARTY.x]: pidOf(PARTY.x), [PARTY.y]: revived!.pid!, [PARTY.z]: pidOf(PARTY.z) };
    for (const [holder, pid] of Object.entries(pids)) {
      const foreign = Object.entries(secretsOf)
        .filter(([party]) => party !== holder)
        .flatMap(([party, tokens]) => [password(party), ...tokens.map((name) => pinOf(party, name))]);
      expect({ holder, holds: processHolds(pid, foreign) }).toEqual({ holder, holds: [] });
    }
  }, 120_000);

  it("reaches no log, no configuration and no workflow history", async () => {
    const secrets = [secret(PARTY.x, "root", "secrets", "token-root.pin")];
    for (const party of Object.values(PARTY)) {
      const folder = join(home, party, "secrets");
      for (const name of await readdir(folder)) secrets.push(readFileSync(join(folder, name), "utf8").trim());
    }
    expect(secrets.length).toBeGreaterThan(8);
    const files = (await readdir(home, { recursive: true, withFileTypes: true })).filter(
      (entry) => entry.isFile() && !entry.parentPath.includes("/secrets") && !entry.parentPath.includes("/postgres"),
    );
    for (const { parentPath, name } of files) {
      const bytes = await readFile(join(parentPath, name)).catch(() => Buffer.alloc(0));
      const held = secrets.filter((one) => bytes.includes(one));
      expect({ name, held: held.length }).toEqual({ name, held: 0 });
    }
  });

  it("is not the root's private key: the token keeps it", () => {
    const conf = join(home, PARTY.x, "root", "softhsm", "softhsm2.conf");
    const probe = `
      const { attemptExtraction } = await import(${JSON.stringify(join(ROOT, "hsm/index.ts"))});
      const pin = { file: ${JSON.stringify(join(home, PARTY.x, "root", "secrets", "token-root.pin"))} };
      const config = { module: ${JSON.stringify(findPkcs11Module())}, uri: "pkcs11:token=company-x-root", pin };
      console.log(JSON.stringify(await attemptExtraction(config, "root")));`;
    const out = execFileSync(process.execPath, ["--input-type=module", "-e", probe], {
      env: { ...process.env, SOFTHSM2_CONF: conf },
      encoding: "utf8",
    });
    expect(JSON.parse(out)).toEqual({ readValue: "CKR_ATTRIBUTE_SENSITIVE", wrap: "CKR_KEY_UNEXTRACTABLE" });
  });
});

describe("a workflow on one party's server", () => {
  it("has no way to another party's namespace", async () => {
    const foreign = temporal(PARTY.y, PARTY.x, ({ workflow }) => workflow.getHandle("ceremony/company-x").describe());
    await expect(foreign).rejects.toThrow(/not found/i);
  });

  it("gets no signature by asking for one", async () => {
    const signed = () =>
      query<{ n: number }>(
        PARTY.x,
        "SELECT (SELECT count(*) FROM ca_intent)::int + (SELECT count(*) FROM ledger_act)::int AS n",
      );
    const before = await signed();
    // Anyone who reaches Company-X's Temporal may start these; what they ask for isn't in its database.
    const result = await temporal(PARTY.x, PARTY.x, ({ workflow }) =>
      workflow.execute("delegation", {
        workflowId: "delegation/mallory",
        taskQueue: "site",
        args: [{ child: "mallory" }],
      }),
    );
    expect(result).toMatchObject({ state: "refused", code: "not-found" });
    for (const party of [PARTY.x, PARTY.y]) {
      const stranger = await temporal(party, party, async ({ workflow }) => {
        const options = { workflowId: "stranger", taskQueue: "site", args: [{ documentSha256: "0".repeat(64) }] };
        const handle = await workflow.start("rootCeremony", options);
        await sleep(1500);
        const { status } = await handle.describe();
        await handle.terminate();
        return status.name;
      });
      // It waits for a queue that nobody serves: the only process with the root key is gone.
      expect(stranger).toBe("RUNNING");
    }
    expect(await signed()).toEqual(before);
  });

  it("names no key, token, PIN or bytes to sign in any activity's input", async () => {
    for (const name of await readdir(join(ROOT, "contracts"))) {
      const source = await readFile(join(ROOT, "contracts", name), "utf8");
      const inputs = [...source.matchAll(/^\s+\w+\((input: [^)]*)\)/gm)].map(([, input]) => input!);
      for (const input of inputs)
        expect({ name, input }).not.toMatchObject({
          input: expect.stringMatching(/uri|pkcs11|key\b|pin\b|token|tbs|csr\b|certificate/i),
        });
    }
  });
});
