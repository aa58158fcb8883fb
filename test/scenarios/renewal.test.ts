import { createHash } from "node:crypto";
import { chmodSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { playCustody } from "../../apps/cli/scenario/custody.ts";
import { lotDevices, type LotDevice } from "../../apps/cli/scenario/lot.ts";
import { SiteClient } from "../../apps/cli/site-client.ts";
import { writeEvidence } from "../../apps/cli/out/evidence.ts";
import { loadSiteConfig } from "../../apps/site/config.ts";
import { Stack } from "../../apps/site/stack/stack.ts";
import { removeState } from "../../apps/site/stack/state.ts";
import { parseCertificatesPem } from "../../lib/pki/certificate.ts";
import { pythonJudge } from "../support/python.ts";
import { countersign, type Run } from "./countersign.ts";

/** Factory-Y renews Technician-Z's CA between two lots, and while one of them is half injected. */
describe("a renewal in the embedded stack", () => {
  let dir: string;
  let home: string;
  let stack: Stack;
  let lots: string[];
  const out = (...path: string[]): string => join(dir, "out", ...path);
  const say = (...args: string[]): Promise<Run> => countersign(args, { COUNTERSIGN_HOME: home });
  const caOf = (pem: string) => parseCertificatesPem(pem)[1]!;

  async function devicesOf(lot: string): Promise<LotDevice[]> {
    const devices: LotDevice[] = [];
    for await (const device of lotDevices(home, lot)) devices.push(device);
    return devices;
  }
  async function lotIds(): Promise<string[]> {
    const client = await SiteClient.open("technician-z", { home });
    const { lots } = await client.get<{ lots: { id: string }[] }>("/api/v1/lots");
    client.close();
    return lots.map(({ id }) => id).sort();
  }
  /** Every device of every lot, and the ledgers as they are now. */
  async function exported(to: string): Promise<LotDevice[]> {
    const devices = (await Promise.all(lots.map(devicesOf))).flat();
    const { firmwareDir } = loadSiteConfig(join(home, "technician-z", "site.json"));
    const result = { certified: 6, refused: 0, connected: 0, telemetry: 0, seconds: 1, devicesPerSecond: 1 };
    await writeEvidence(to, stack.info, devices, result, [], firmwareDir);
    return devices;
  }

  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), "countersign-renew-"));
    chmodSync(dir, 0o711); // the database runs as an account of its own
    home = join(dir, "home");
    process.env["HUB_PORT"] = "0";
    stack = await Stack.start({ home });
    await playCustody(stack.info, home, { devices: 2, images: 1 });
  }, 240_000);
  afterAll(async () => {
    await stack?.stop();
    await removeState(dir);
  });

  it("is one command at the parent", async () => {
    const before = (await devicesOf((await lotIds())[0]!))[0]!.chain!;
    const done = await say("party", "renew", "technician-z", "--site", "factory-y", "--json");
    expect(done, done.stderr).toMatchObject({ code: 0 });
    expect(JSON.parse(done.stdout)).toMatchObject({ state: "accepted", revision: 2 });
    const client = await SiteClient.open("technician-z", { home });
    const { grant } = await client.get<{ grant: { used: number } }>("/api/v1/site");
    client.close();
    expect(grant.used).toBe(2);
    const refused = await say("party", "renew", "nobody", "--site", "factory-y");
    expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining("[not-found]") });

    // What was certified before is injected with the chain it was certified with; what comes now gets the new one.
    const [old] = await lotIds();
    expect(await say("lot", "inject", old!, "--site", "technician-z")).toMatchObject({ code: 0 });
    expect(await playCustody(stack.info, home, { devices: 2, images: 2 })).toMatchObject({ connected: 2 });
    lots = await lotIds();
    expect(lots).toHaveLength(2);
    const after = (await devicesOf(lots[1]!))[0]!.chain!;
    const [was, is] = [caOf(before), caOf(after)];
    expect(is.der).not.toEqual(was.der);
    expect([is.spki, is.notBefore, is.subject.der]).toEqual([was.spki, was.notBefore, was.subject.der]);
  }, 180_000);

  it("is a sitting with the root's token where the parent's CA is offline, for what was read aloud and nothing else", async () => {
    const root = ["--site", "company-x", "--json"];
    const shown = await say("party", "show", "factory-y", ...root);
    const { delegation } = JSON.parse(shown.stdout) as { delegation: { csrSha256: string; revision: number } };
    const other = ["ceremony", "renew", "factory-y", "--request", "0".repeat(64)];
    expect(await say(...other, ...root)).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("[state-conflict]"),
    });
    expect(await say("party", "renew", "factory-y", ...root)).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("ceremony renew"),
    });
    const done = await say("ceremony", "renew", "factory-y", "--request", delegation.csrSha256, ...root);
    expect(done, done.stderr).toMatchObject({ code: 0 });
    expect(JSON.parse(done.stdout)).toMatchObject({ state: "accepted", revision: 2 });
    const until = ["--until", "2026-01-01T00:00:00Z"];
    const shorter = await say("ceremony", "renew", "factory-y", "--request", delegation.csrSha256, ...until, ...root);
    expect(shorter).toMatchObject({ code: 2, stderr: expect.stringContaining("[input-invalid]") });
  }, 120_000);

  it("signs a hub's codes in such a sitting, for its own root alone", async () => {
    const { ca } = JSON.parse((await say("party", "show", "company-x", "--site", "company-x", "--json")).stdout) as {
      ca: string;
    };
    const [root] = parseCertificatesPem(ca);
    const codes = [{ place: "IoT Hub line-1", code: "A1".repeat(24) }];
    const file = join(dir, "codes.json");
    const write = (caSha256: string) =>
      writeFileSync(
        file,
        JSON.stringify({
          ...{ schema: "countersign/hub-proof/v1", party: "company-x", hub: "azure", name: "root", caSha256, codes },
        }),
      );
    write("0".repeat(64));
    expect(await say("ceremony", "prove", file)).toMatchObject({
      code: 2,
      stderr: expect.stringContaining("another CA"),
    });
    write(createHash("sha256").update(root!.der).digest("hex"));
    const done = await say("ceremony", "prove", file, "--json");
    expect(done, done.stderr).toMatchObject({ code: 0 });
    expect(JSON.parse(done.stdout)).toEqual({ hub: "azure", name: "root", signed: codes });
  }, 60_000);

  it("is followed by a change of the key, asked for by the party itself", async () => {
    const before = caOf((await devicesOf(lots[1]!))[0]!.chain!);
    const plan = await say("rotate", "technician-z", "--dry-run", "--json");
    expect(plan, plan.stderr).toMatchObject({ code: 0 });
    expect(JSON.parse(plan.stdout)).toMatchObject({ parent: "factory-y", label: "ca-3" });
    expect(await say("rotate", "technician-z", "--site", "factory-y")).toMatchObject({ code: 2 });
    const root = await say("rotate", "company-x");
    expect(root).toMatchObject({ code: 1, stderr: expect.stringContaining("[unauthorized]") });

    // One lot is being certified meanwhile.
    const certifying = playCustody(stack.info, home, { devices: 1, images: 1 });
    const done = await say("rotate", "technician-z", "--json");
    expect(done, done.stderr).toMatchObject({ code: 0 });
    const { keys } = JSON.parse(done.stdout) as { keys: { label: string; present: boolean }[] };
    expect(keys).toMatchObject([
      { label: "ca", present: false },
      { label: "ca-3", present: true },
    ]);
    expect(await certifying).toMatchObject({ connected: 1 });
    expect(await playCustody(stack.info, home, { devices: 1, images: 1 })).toMatchObject({ connected: 1 });
    const all = await lotIds();
    expect(all).toHaveLength(4);
    const after = caOf((await devicesOf(all.at(-1)!))[0]!.chain!);
    expect(after.spki).not.toEqual(before.spki);
    expect(after.subject.der).toEqual(before.subject.der);
    lots = all;
  }, 180_000);

  it("is a sitting as well for a key of the root's own child, whose children are renewed by that key then", async () => {
    const asked = await say("rotate", "factory-y", "--no-wait", "--json");
    expect(asked, asked.stderr).toMatchObject({ code: 0 });
    const { csrSha256 } = JSON.parse(asked.stdout) as { csrSha256: string };
    const sitting = (digest: string) => say("ceremony", "renew", "factory-y", "--request", digest, "--json");
    const client = await SiteClient.open("company-x", { home });
    const at = await client.poll<{ csrSha256: string }>(
      "/api/v1/delegations/factory-y",
      (view) => view.csrSha256 === csrSha256,
    );
    client.close();
    expect(at).toMatchObject({ revision: 3, state: "joined" });
    const done = await sitting(csrSha256);
    expect(done, done.stderr).toMatchObject({ code: 0 });
    expect(JSON.parse(done.stdout)).toMatchObject({ state: "accepted", revision: 3 });
    const renewed = await say("party", "renew", "technician-z", "--site", "factory-y", "--json");
    expect(renewed, renewed.stderr).toMatchObject({ code: 0 });
    expect(JSON.parse(renewed.stdout)).toMatchObject({ state: "accepted", revision: 4 });
  }, 120_000);

  it("holds before audit and verifiers, for the devices of all certificates", async () => {
    const devices = await exported(out());
    const pinned = ["--root", out("root.pem"), "--policy", out("policy.json")];
    const audit = await say("audit", out(), ...pinned, "--json");
    expect(audit, audit.stdout).toMatchObject({ code: 0 });
    const { findings } = JSON.parse(audit.stdout) as { findings: unknown[] };
    expect(findings).toEqual([]);
    const read = (...path: string[]) => readFileSync(out(...path));
    const questions = devices.map(({ deviceId }) => ({
      root: parseCertificatesPem(read("root.pem").toString())[0]!.der,
      policy: JSON.parse(read("policy.json").toString()) as unknown,
      passport: read("devices", deviceId, "passport.json").toString("base64"),
    }));
    const asked = questions.map((one) => ({ ...one, root: Buffer.from(one.root).toString("base64") }));
    const theirs = pythonJudge<(typeof asked)[number], { ok: boolean; why?: string }>("passport.py", asked);
    expect(theirs.map(({ ok, why }) => ({ ok, why }))).toEqual(devices.map(() => ({ ok: true, why: undefined })));
    // One of each lot, by the command itself.
    for (const { deviceId } of devices.filter(({ slot }) => slot === 1)) {
      expect(await say("verify", out("devices", deviceId, "passport.json"), ...pinned)).toMatchObject({ code: 0 });
      const chain = ["chain", "verify", out("devices", deviceId, "chain.pem"), "--root", out("root.pem")];
      expect(await say(...chain)).toMatchObject({ code: 0 });
    }
  }, 120_000);

  it("is taken back with the certificate that it follows", async () => {
    const revoked = await say("revoke", "technician-z", "--reason", "cACompromise", "--json");
    expect(revoked, revoked.stderr).toMatchObject({ code: 0 });
    const { results } = JSON.parse(revoked.stdout) as { results: { serials: string[] }[] };
    expect(results[0]!.serials).toHaveLength(4);
    const again = await say("party", "renew", "technician-z", "--site", "factory-y");
    expect(again).toMatchObject({ code: 1, stderr: expect.stringContaining("revoked") });
    const rotated = await say("rotate", "technician-z");
    expect(rotated).toMatchObject({ code: 1, stderr: expect.stringContaining("revoked") });
  }, 120_000);
});
