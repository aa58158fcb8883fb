import { execFile, spawn } from "node:child_process";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { tempDir } from "../../../test/support/index.ts";
import { loginUrl, startPostgres, type Postgres } from "./postgres.ts";
import { postgresAccount, reachable } from "./postgres-account.ts";

const options = (dir: string) => ({
  dataDir: join(dir, "postgres"),
  adminPasswordFile: join(dir, "secrets", "postgres.password"),
  logFile: join(dir, "postgres.log"),
});

async function query<T extends pg.QueryResultRow>(url: string, sql: string): Promise<T[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query<T>(sql)).rows;
  } finally {
    await client.end();
  }
}

describe("the embedded Postgres", () => {
  let dir: string;
  let postgres: Postgres;
  const site = (name: string) => ({ name, passwordFile: join(dir, name, "secrets", "db.password") });

  beforeAll(async () => {
    dir = tempDir("cluster");
    postgres = await startPostgres(options(dir));
  });
  afterAll(async () => {
    await postgres.stop();
  });

  it("gives each site a database that only its own password opens", async () => {
    const factory = await postgres.ensureDatabase(site("factory_y"));
    const technician = await postgres.ensureDatabase(site("technician_z"));
    expect(factory.url).toBe(`postgres://factory_y@127.0.0.1:${postgres.port}/factory_y`);
    expect(statSync(factory.passwordFile).mode & 0o777).toBe(0o600);
    await query(loginUrl(factory), "CREATE TABLE t (x int)");

    for (const database of ["technician_z", "postgres", "template1"]) {
      const url = new URL(loginUrl(factory));
      url.pathname = `/${database}`;
      await expect(query(url.href, "SELECT 1")).rejects.toThrow(/permission denied/);
    }
    const stolen = new URL(loginUrl(factory));
    stolen.password = readFileSync(technician.passwordFile, "utf8").trim();
    await expect(query(stolen.href, "SELECT 1")).rejects.toThrow(/password authentication failed/);
    stolen.password = "";
    await expect(query(stolen.href, "SELECT 1")).rejects.toThrow();
  });

  it("lets a site's role do nothing to the server", async () => {
    const url = loginUrl(await postgres.ensureDatabase(site("factory_y")));
    await expect(query(url, "CREATE ROLE intruder")).rejects.toThrow(/permission denied/);
    await expect(query(url, "CREATE DATABASE mine")).rejects.toThrow(/permission denied/);
    await expect(query(url, "COPY t FROM '/etc/passwd'")).rejects.toThrow(/permission denied/);
  });

  it("asks for a password on every way in, and has no socket in the file system", async () => {
    const rules = await query<{ auth_method: string }>(postgres.adminUrl, "SELECT auth_method FROM pg_hba_file_rules");
    expect(new Set(rules.map((rule) => rule.auth_method))).toEqual(new Set(["scram-sha-256"]));
    const [show] = await query<{ unix_socket_directories: string }>(postgres.adminUrl, "SHOW unix_socket_directories");
    expect(show?.unix_socket_directories).toBe("");
  });

  it("stays durable", async () => {
    for (const setting of ["fsync", "synchronous_commit", "full_page_writes"]) {
      expect(await query(postgres.adminUrl, `SHOW ${setting}`)).toEqual([{ [setting]: "on" }]);
    }
  });

  it("may be asked for the same database twice, and at once", async () => {
    const [first, second] = await Promise.all([
      postgres.ensureDatabase(site("hub")),
      postgres.ensureDatabase(site("hub")),
      postgres.ensureDatabase(site("company_x")),
    ]);
    expect(second).toEqual(first);
    expect(await postgres.ensureDatabase(site("hub"))).toEqual(first);
    await expect(query(loginUrl(first), "SELECT 1 AS one")).resolves.toEqual([{ one: 1 }]);
  });

  it("refuses names that aren't plain identifiers", async () => {
    for (const name of ["Factory", "a-b", 'x"; DROP ROLE postgres; --', "", "1a"]) {
      await expect(postgres.ensureDatabase({ name, passwordFile: join(dir, "p") })).rejects.toMatchObject({
        code: "input-invalid",
      });
    }
  });

  it("writes no password to its log", async () => {
    const { passwordFile } = await postgres.ensureDatabase(site("factory_y"));
    const log = readFileSync(options(dir).logFile, "utf8");
    expect(log).not.toContain(readFileSync(passwordFile, "utf8").trim());
    expect(log).not.toContain(readFileSync(options(dir).adminPasswordFile, "utf8").trim());
    expect(log).not.toContain("SCRAM-SHA-256$");
  });
});

describe("the embedded Postgres after a crash", () => {
  it("has what was committed, whether the server or its supervisor was killed with -9", async () => {
    const dir = tempDir("crash");
    const first = await startPostgres(options(dir));
    const login = await first.ensureDatabase({ name: "site", passwordFile: join(dir, "secrets", "db.password") });
    await query(loginUrl(login), "CREATE TABLE t AS SELECT 1 AS x");
    process.kill(first.pid as number, "SIGKILL");
    await first.child?.exited;

    // A supervisor in a process of its own, killed while its server is up.
    const script = `
      import { startPostgres } from ${JSON.stringify(join(import.meta.dirname, "postgres.ts"))};
      const { port, pid } = await startPostgres(${JSON.stringify(options(dir))});
      console.log(JSON.stringify({ port, pid }));
      setInterval(() => {}, 1000);
    `;
    const supervisor = spawn(process.execPath, ["--input-type=module", "-e", script], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const { port } = await new Promise<{ port: number }>((resolve) => {
      supervisor.stdout.once("data", (data: Buffer) => resolve(JSON.parse(data.toString()) as { port: number }));
    });
    const at = new URL(loginUrl(login));
    at.port = String(port);
    expect(await query(at.href, "SELECT x FROM t")).toEqual([{ x: 1 }]);
    await query(at.href, "INSERT INTO t VALUES (2)");
    supervisor.kill("SIGKILL");

    // At once: the orphan is still shutting down.
    const third = await startPostgres(options(dir));
    at.port = String(third.port);
    expect(await query(at.href, "SELECT x FROM t ORDER BY x")).toEqual([{ x: 1 }, { x: 2 }]);
    await third.stop();

    // A lock file that names a live process which isn't Postgres.
    writeFileSync(join(dir, "postgres", "postmaster.pid"), `${process.pid}\n${join(dir, "postgres")}\n`);
    const fourth = await startPostgres(options(dir));
    at.port = String(fourth.port);
    expect(await query(at.href, "SELECT x FROM t ORDER BY x")).toEqual([{ x: 1 }, { x: 2 }]);
    await fourth.stop();
    expect(existsSync(join(dir, "postgres", "postmaster.pid"))).toBe(false);
  }, 90_000);
});

// Only root has to give the cluster to another account.
if (process.getuid?.() === 0)
  describe("as root, below a folder that is closed to others", () => {
    it("keeps a temporary cluster in place, in private temporary folders", async () => {
      const home = join(tempDir("private"), "a", "b");
      mkdirSync(home, { recursive: true, mode: 0o700 });
      process.env["TMPDIR"] = home;
      const postgres = await startPostgres(options(home)).finally(() => {
        delete process.env["TMPDIR"];
      });
      await postgres.stop();
      expect(lstatSync(join(home, "postgres")).isDirectory()).toBe(true);
      expect(statSync(home).mode & 0o777).toBe(0o701);
      expect(statSync(join(home, "secrets")).mode & 0o777).toBe(0o700);
    });

    it("keeps the cluster elsewhere, behind a link", async () => {
      const closed = join(mkdtempSync("/var/tmp/countersign-closed-"), "home");
      mkdirSync(join(closed, "state"), { recursive: true });
      chmodSync(closed, 0o700);
      // A temporary folder that is closed as well.
      process.env["TMPDIR"] = closed;
      const postgres = await startPostgres(options(join(closed, "state"))).finally(() => {
        delete process.env["TMPDIR"];
      });
      const real = (await promisify(execFile)("readlink", ["-f", join(closed, "state", "postgres")])).stdout.trim();
      try {
        expect(await query(postgres.adminUrl, "SHOW data_directory")).toEqual([{ data_directory: real }]);
        expect(real.startsWith(closed)).toBe(false);
        expect(statSync(real).mode & 0o777).toBe(0o700);
        expect(reachable(real, postgresAccount()!)).toBe(true);
      } finally {
        await postgres.stop();
        await promisify(execFile)("rm", ["-rf", real, dirname(closed)]);
      }
    });
  });
