import { chmodSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { writeEvidence } from "../../apps/cli/out/evidence.ts";
import { playCustody, type CustodyResult } from "../../apps/cli/scenario/custody.ts";
import { lotDevices, type LotDevice } from "../../apps/cli/scenario/lot.ts";
import { SiteClient } from "../../apps/cli/site-client.ts";
import { loadSiteConfig } from "../../apps/site/config.ts";
import { freePort } from "../../apps/site/stack/ports.ts";
import { Stack } from "../../apps/site/stack/stack.ts";
import { removeState } from "../../apps/site/stack/state.ts";
import { pemEncode } from "../../lib/pki/pem.ts";
import { makeCsr, throwawayKey } from "../support/issuing.ts";
import { connectFleet, type Fleet } from "../support/mqtt-fleet.ts";
import { countersign, type Run } from "./countersign.ts";

/** The whole stack, by the commands that an operator has: nobody has told the hub of anything but the root. */
describe("a revocation in the embedded stack", () => {
  let dir: string;
  let home: string;
  let stack: Stack | undefined;
  let fleet: Fleet | undefined;
  let result: CustodyResult;
  const IDS = ["dev-a", "dev-b", "dev-c", "dev-d"];
  const keys = new Map(IDS.map((id) => [id, throwawayKey()]));
  const say = (...args: string[]): Promise<Run> => countersign(args, { COUNTERSIGN_HOME: home });
  const hubOf = () => ({
    mqttPort: Number(stack!.info.hub.mqtt.split(":")[1]),
    infraCa: { pem: readFileSync(stack!.info.hub.ca, "utf8") },
  });
  const out = (...path: string[]): string => join(dir, "out", ...path);
  const connectAll = (ids: readonly string[]): Promise<Fleet> =>
    connectFleet(
      hubOf(),
      ids.map((id) => ({ id, chain: out("devices", id, "chain.pem"), key: join(dir, `${id}.key`) })),
    );
  /** The ledgers and passports as they are now. */
  async function exported(to: string): Promise<void> {
    const client = await SiteClient.open("technician-z", { home });
    const { lots } = await client.get<{ lots: { id: string }[] }>("/api/v1/lots");
    client.close();
    const devices: LotDevice[] = [];
    for await (const device of lotDevices(home, lots[0]!.id)) devices.push(device);
    const { firmwareDir } = loadSiteConfig(join(home, "technician-z", "site.json"));
    await writeEvidence(to, stack!.info, devices, { ...result }, [], firmwareDir);
  }

  beforeAll(async () => {
    dir = mkdtempSync(join(tmpdir(), "countersign-revoke-"));
    chmodSync(dir, 0o711); // the database runs as an account of its own
    home = join(dir, "home");
    process.env["HUB_PORT"] = String(await freePort());
    stack = await Stack.start({ home });
    const csrs = IDS.map((id) => {
      const key = keys.get(id)!;
      writeFileSync(join(dir, `${id}.key`), key.privateKey.export({ type: "pkcs8", format: "pem" }));
      return pemEncode("CERTIFICATE REQUEST", makeCsr(key, { cn: id }));
    });
    result = await playCustody(stack.info, home, { devices: IDS.length, images: 0, csrs, out: join(dir, "out") });
  }, 240_000);
  afterAll(async () => {
    fleet?.end();
    await stack?.stop();
    await removeState(dir);
  });

  it("comes to a hub that follows the ledgers, and lets in only what they hold", async () => {
    expect(await say("hub", "ca", "unlogged", "company-x-root", "refuse")).toMatchObject({ code: 0 });
    fleet = await connectAll(IDS);
    expect(fleet).toMatchObject({ up: IDS.length, refused: {} });
    const status = await say("hub", "status", "--json");
    expect(status, status.stdout).toMatchObject({ code: 0 });
    expect(JSON.parse(status.stdout)).toMatchObject({
      alarms: [],
      ledgers: [{ state: "followed" }, { state: "followed" }, { state: "followed" }],
    });
  }, 180_000);

  it("ends the device's open connection within a second, and nobody else's", async () => {
    const dry = await say("revoke", "dev-a", "--reason", "keyCompromise", "--dry-run", "--json");
    expect(dry, dry.stderr).toMatchObject({ code: 0 });
    expect(JSON.parse(dry.stdout)).toMatchObject({
      dryRun: true,
      results: [{ id: "dev-a", target: "device", site: "technician-z", state: "ordered", steps: [] }],
    });
    const done = await say("revoke", "dev-a", "--reason", "keyCompromise", "--json");
    const answered = Date.now();
    expect(done, done.stderr).toMatchObject({ code: 0 });
    expect(JSON.parse(done.stdout)).toMatchObject({ results: [{ id: "dev-a", state: "ordered", done: true }] });
    const closed = await fleet!.closed(1);
    expect(Object.keys(closed)).toEqual(["dev-a"]);
    process.stdout.write(`the connection ended ${Math.round(answered - closed["dev-a"]!)} ms before the command did\n`);
    expect(closed["dev-a"]!).toBeLessThan(answered + 1_000);
    const again = await connectAll(["dev-a"]);
    again.end();
    expect(again.up).toBe(0);
    expect(JSON.parse((await say("revoke", "dev-a", "--json")).stdout)).toMatchObject({
      results: [{ state: "already" }],
    });
    expect(await say("revoke", "nobody")).toMatchObject({ code: 1, stderr: expect.stringContaining("[not-found]") });
  }, 180_000);

  it("is held until it is lifted", async () => {
    expect(await say("revoke", "--group", "device = dev-b", "--hold")).toMatchObject({ code: 0 });
    expect(Object.keys(await fleet!.closed(2)).sort()).toEqual(["dev-a", "dev-b"]);
    expect(await say("revoke", "dev-b", "--lift")).toMatchObject({ code: 0 });
    const back = await connectAll(["dev-b"]);
    back.end();
    expect(back.up).toBe(1);
  }, 180_000);

  it("takes a CA with all its devices, and the ledgers and passports say so", async () => {
    const dry = await say("revoke", "technician-z", "--reason", "cACompromise", "--dry-run", "--json");
    expect(JSON.parse(dry.stdout)).toMatchObject({ results: [{ target: "ca", site: "factory-y", devices: 4 }] });
    const before = await say("verify", out("devices", "dev-c", "passport.json"), ...pinned());
    expect(before).toMatchObject({ code: 0 });
    expect(await say("revoke", "technician-z", "--reason", "cACompromise")).toMatchObject({ code: 0 });
    expect(Object.keys(await fleet!.closed(4)).sort()).toEqual(IDS);
    const none = await connectAll(["dev-c"]);
    none.end();
    expect(none.up).toBe(0);

    const after = join(dir, "after");
    await exported(after);
    const verdict = await say("verify", join(after, "devices", "dev-c", "passport.json"), ...pinned());
    expect(verdict).toMatchObject({ code: 1, stderr: expect.stringContaining("factory-y revoked") });
    const audit = await say("audit", after, ...pinned(), "--previous", join(dir, "out"), "--json");
    expect(audit, audit.stdout).toMatchObject({ code: 0 });
    expect(JSON.parse(audit.stdout)).toMatchObject({ ok: true, findings: [] });
    const chain = ["chain", "verify", out("devices", "dev-c", "chain.pem"), "--root", out("root.pem")];
    expect(await say(...chain)).toMatchObject({ code: 0 });
    const crl = await say(...chain, "--crl", join(after, "parties", "factory-y", "crl.pem"));
    expect(crl).toMatchObject({ code: 1, stderr: expect.stringMatching(/revoked/) });
  }, 180_000);

  it("of a root's child reaches the hub without the root's key, and its CRL with it", async () => {
    const revoked = await say("revoke", "factory-y", "--reason", "cessationOfOperation", "--json");
    expect(revoked, revoked.stderr).toMatchObject({ code: 0 });
    const [{ serials }] = (JSON.parse(revoked.stdout) as { results: [{ serials: string[] }] }).results;
    const blocks = await say("hub", "block", "list", "--json");
    expect(JSON.parse(blocks.stdout)).toMatchObject([
      { kind: "key", reason: expect.stringContaining("revoked by its issuer") },
    ]);
    // The root's token is opened for what was reviewed, and for nothing else.
    expect(await say("ceremony", "crl")).toMatchObject({ code: 1, stderr: expect.stringContaining(serials[0]!) });
    const signed = await say("ceremony", "crl", ...serials, "--json");
    expect(signed, signed.stderr).toMatchObject({ code: 0 });
    expect(JSON.parse(signed.stdout)).toMatchObject({ revoked: serials });
  }, 180_000);

  const pinned = (): string[] => ["--root", out("root.pem"), "--policy", out("policy.json")];
});
