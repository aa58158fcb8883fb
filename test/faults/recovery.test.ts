import { chmod, mkdtemp, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { playCustody, type CustodyResult } from "../../apps/cli/scenario/custody.ts";
import { Stack } from "../../apps/site/stack/stack.ts";
import { removeState } from "../../apps/site/stack/state.ts";
import { parseCrl, type Crl } from "../../lib/pki/crl.ts";
import { pemDecode } from "../../lib/pki/pem.ts";
import { countersign, type Run } from "../scenarios/countersign.ts";

const crlOf = (pem: string): Crl => parseCrl(pemDecode(pem, "X509 CRL")[0]!);

/**
 * The whole stack, by the commands that an operator has: a lot, a backup, another lot, the backup restored. Every party's
 * database is in the one cluster, so every party is rebuilt.
 */
describe("a stack whose database is restored from a backup", () => {
  let dir: string;
  let home: string;
  let stack: Stack | undefined;
  const results: CustodyResult[] = [];
  const say = (...args: string[]): Promise<Run> => countersign(args, { COUNTERSIGN_HOME: home });
  const lot = async (out: string): Promise<void> => {
    results.push(await playCustody(stack!.info, home, { devices: 4, images: 2, out: join(dir, out) }));
  };

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), "countersign-recovery-"));
    await chmod(dir, 0o711); // the database runs as an account of its own
    home = join(dir, "home");
    process.env["HUB_PORT"] ??= "0";
    stack = await Stack.start({ home });
    await lot("first");
    expect(await say("revoke", "--lot", "lot-1", "--hold")).toMatchObject({ code: 0 });
    const backup = await say("backup", "--to", join(dir, "backup"), "--json");
    expect(backup).toMatchObject({ code: 0 });
    await lot("second");
    const revoked = await say("revoke", "--lot", "lot-1", "--reason", "superseded", "--json");
    expect(revoked, revoked.stderr).toMatchObject({ code: 0 });
    const last = await readFile(join(dir, "second", "parties", "technician-z", "crl.pem"), "utf8");
    expect(crlOf(last).revoked.size).toBe(4);
  }, 300_000);
  afterAll(async () => {
    await stack?.stop();
    await removeState(dir);
  });

  it("is restored and rebuilt only while it is down", async () => {
    for (const args of [
      ["restore", "--from", join(dir, "backup")],
      ["ledger", "rebuild", "--site", "technician-z"],
    ]) {
      const run = await say(...args);
      expect(run.code).toBe(1);
      expect(run.stderr).toContain("countersign down");
    }
    const again = await say("backup", "--to", join(dir, "backup"));
    expect(again.code).toBe(1);
  });

  it("doesn't come up behind what was published, and says what to do", async () => {
    await stack!.stop();
    stack = undefined;
    const restored = await say("restore", "--from", join(dir, "backup"));
    expect(restored).toMatchObject({ code: 0 });
    const up = await say("up");
    expect(up.code).not.toBe(0);
    expect(up.stderr).toMatch(/holds \d+ entries, but the copy in .* has seen \d+/);
    expect(up.stderr).toContain("countersign ledger rebuild");
  }, 120_000);

  it("knows everything again that its ledgers hold, and goes on", async () => {
    for (const site of ["company-x", "factory-y", "technician-z"]) {
      const run = await say("ledger", "rebuild", "--site", site, "--json");
      expect(run, run.stderr).toMatchObject({ code: 0 });
      const { restored, size, left } = JSON.parse(run.stdout) as { restored: number; size: number; left: unknown[] };
      expect(left).toEqual([]);
      if (site !== "company-x") expect(size).toBeGreaterThan(restored);
    }
    stack = await Stack.start({ home });
    await lot("third");
    expect(results.map(({ certified, connected }) => [certified, connected])).toEqual([
      [4, 2],
      [4, 2],
      [4, 2],
    ]);

    const third = join(dir, "third");
    const trusted = ["--root", join(third, "root.pem"), "--policy", join(third, "policy.json")];
    const audit = await say("audit", third, ...trusted, "--previous", join(dir, "second"), "--json");
    expect(audit, audit.stderr).toMatchObject({ code: 0 });
    const report = JSON.parse(audit.stdout) as {
      devices: number;
      findings: unknown[];
      parties: { id: string; acts: Record<string, number> }[];
    };
    expect(report).toMatchObject({ devices: 12, findings: [] });
    for (const { acts } of report.parties) expect(acts["recovered"]).toBe(1);
    // What was held at the backup and revoked after it is revoked again, by the ledger, in a CRL of a higher number.
    const [before, after] = await Promise.all(
      ["second", "third"].map(async (out) =>
        crlOf(await readFile(join(dir, out, "parties", "technician-z", "crl.pem"), "utf8")),
      ),
    );
    expect([...before!.revoked.values()].map(({ reason }) => reason)).toEqual(Array(4).fill("certificateHold"));
    expect([...after!.revoked.values()].map(({ reason }) => reason)).toEqual(Array(4).fill("superseded"));
    expect(after!.number!).toBeGreaterThan(before!.number!);
    expect(report.parties.find(({ id }) => id === "technician-z")!.acts["revoked"]).toBe(8);
    // A second copy of one serial number or slot would be a finding; here are the twelve.
    expect(report.parties.find(({ id }) => id === "technician-z")!.acts["certified"]).toBe(12);
    const summary = JSON.parse(await readFile(join(third, "summary.json"), "utf8")) as { devices: number };
    expect(summary.devices).toBe(4);
  }, 300_000);
});
