import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { utf8 } from "../../lib/domain/bytes.ts";
import { formatVkey } from "../../lib/ledger/note.ts";
import { pem } from "../support/issuing.ts";
import { MemoryLog } from "../support/memory-log.ts";
import { tempDir } from "../support/index.ts";
import { testWorld, type TestWorld } from "../support/world.ts";
import { countersign } from "./countersign.ts";

/** Two saved copies of a party's ledger that no single history has, through the command. */
describe("audit --previous", () => {
  const home = tempDir("split");
  const [now, then] = [join(home, "now"), join(home, "then")];
  let world: TestWorld;
  let pins: string[];

  beforeAll(async () => {
    world = await testWorld(2);
    for (const party of [world.x, world.y, world.z]) {
      writeLog(join(then, "ledger", party.id), party.log);
      for (const [sha, bytes] of party.blobs) put(join(then, "ledger", party.id, "blobs", sha), bytes);
    }
    cpSync(then, now, { recursive: true });
    put(join(home, "root.pem"), utf8(pem(world.root.der)));
    put(join(home, "policy.json"), utf8(JSON.stringify(world.policy)));
    pins = ["--root", join(home, "root.pem"), "--policy", join(home, "policy.json")];
  });

  function put(path: string, bytes: Uint8Array): void {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, bytes);
  }
  function writeLog(folder: string, log: MemoryLog): void {
    for (const [path, bytes] of log.resources) put(join(folder, path), bytes);
  }
  const audit = (...more: string[]) =>
    countersign(["audit", now, ...pins, "--previous", then, "--evidence", join(home, "evidence"), ...more]);
  const openFindings = (stdout: string) =>
    (JSON.parse(stdout) as { findings: { severity: string; code: string; party: string }[] }).findings
      .filter(({ severity }) => severity === "open")
      .map(({ code, party }) => `${code} ${party}`);

  it("says which ledgers the older copy lacks, and which it has that nobody looks at", async () => {
    expect(openFindings((await audit("--json")).stdout)).not.toContain("previous-missing factory-y");
    cpSync(join(then, "ledger", "factory-y"), join(then, "ledger", "factory-w"), { recursive: true });
    const hidden = join(home, "hidden");
    cpSync(join(then, "ledger", "factory-y"), hidden, { recursive: true });
    rmSync(join(then, "ledger", "factory-y"), { recursive: true });
    const { code, stdout } = await audit("--json");
    expect(code).toBe(0);
    expect(openFindings(stdout)).toEqual(
      expect.arrayContaining(["previous-missing factory-y", "previous-missing factory-w"]),
    );
    const shown = await audit();
    expect(shown.stdout).toMatch(/open factory-y: the older copy has no checkpoint of this ledger/);
    expect(shown.stdout).toMatch(/open factory-w: .*nobody looked/);
    cpSync(hidden, join(then, "ledger", "factory-y"), { recursive: true });
    rmSync(join(then, "ledger", "factory-w"), { recursive: true });
  });

  it("writes down two histories so that a third party can check them, and refuses what proves nothing", async () => {
    const { y } = world;
    const vkey = formatVkey(y.log.key);
    const fork = new MemoryLog(y.origin, y.log.signer);
    await fork.append(y.log.entries.slice(0, 3));
    await fork.append([...y.log.entries.slice(3).toReversed(), utf8("one more")]);
    const folder = join(now, "ledger", "factory-y");
    rmSync(join(folder, "tile"), { recursive: true });
    writeLog(folder, fork);

    const { code, stderr, stdout } = await audit("--json");
    expect(code).toBe(1);
    expect(stdout).toContain('"ledger-forked"');
    const file = join(home, "evidence", "split-view-factory-y.json");
    expect(stderr).toContain(file);

    const checked = await countersign(["audit", "evidence", file, "--vkey", vkey]);
    expect(checked).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^proven .*signed \d+ and \d+ entries/) as string,
    });
    const own = await countersign(["audit", "evidence", file, "--json"]);
    expect(JSON.parse(own.stdout)).toMatchObject({ ok: true, origin: y.origin });
    const evidence = JSON.parse(readFileSync(file, "utf8")) as { smaller: string; larger: string };
    writeFileSync(file, JSON.stringify({ ...evidence, smaller: evidence.larger }));
    const refused = await countersign(["audit", "evidence", file, "--vkey", vkey]);
    expect(refused).toMatchObject({ code: 1, stdout: "" });
    expect(refused.stderr).toMatch(/proves nothing.*proof-invalid/);
    writeFileSync(file, "no JSON");
    expect((await countersign(["audit", "evidence", file])).code).toBe(1);
    expect((await countersign(["audit", "evidence", join(home, "none")])).code).toBe(2);

    // One ledger by itself finds the same.
    const log = ["audit", "log", folder, "--vkey", vkey, "--previous", join(then, "ledger", "factory-y")];
    const alone = await countersign([...log, "--evidence", join(home, "alone")]);
    expect(alone.code).toBe(1);
    const written = /^(\S+split-view-\S+\.json)/m.exec(alone.stderr)![1]!;
    expect((await countersign(["audit", "evidence", written, "--vkey", vkey])).code).toBe(0);
  }, 120_000);
});
