import { writeFileSync } from "node:fs";
import { join } from "node:path";
import azureDevice from "azure-iot-device";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { canonicalJson } from "../../lib/domain/json.ts";
import { buildPassport } from "../../lib/ledger/passport-build.ts";
import { connectAzure, eventually, type TestDevice } from "../../test/support/azure-node.ts";
import { startTestHub, type TestHub } from "../../test/support/hub-process.ts";
import { inProcess } from "../../test/support/in-process.ts";
import { tempDir } from "../../test/support/index.ts";
import { issue, pem, throwawayKey } from "../../test/support/issuing.ts";
import { sourceOf, testWorld, type TestWorld } from "../../test/support/world.ts";
import { registerHub } from "../cli/commands/hub.ts";
import { fromUtf8 } from "../../lib/domain/bytes.ts";

let hub: TestHub;
let world: TestWorld;
let files: string;
const passports: string[] = [];
const countersign = inProcess(registerHub);

beforeAll(async () => {
  [hub, world] = await Promise.all([startTestHub(), testWorld(4)]);
  process.env["COUNTERSIGN_HOME"] = hub.home;
  files = tempDir("custody");
  const source = await sourceOf(world);
  for (const id of world.devices) {
    const file = join(files, `${id}.json`);
    writeFileSync(file, fromUtf8(canonicalJson(await buildPassport(id, source))));
    passports.push(file);
  }
  writeFileSync(join(files, "root.pem"), pem(world.root));
  writeFileSync(join(files, "policy.json"), JSON.stringify(world.policy));
  const { code } = (await hub.api("POST", "/api/v1/cas", { name: "company-x" })).body as { code: string };
  const verification = issue(world.x.ca, "hub-verification", { commonName: code }, throwawayKey().spki);
  const proof = { ca: pem(world.root), verification: pem(verification) };
  expect((await hub.api("POST", "/api/v1/cas/company-x/verify", proof)).status).toBe(200);
});
afterAll(() => hub?.stop());

function deviceOf(index: number): TestDevice {
  const { key, chain } = world.credentials[index]!;
  return { id: world.devices[index]!, chain, key: String(key.privateKey.export({ type: "pkcs8", format: "pem" })) };
}

async function comes(index: number): Promise<boolean> {
  try {
    await (await connectAzure(hub, deviceOf(index))).close();
    return true;
  } catch {
    return false;
  }
}

const connected = async () => (await hub.api("GET", "/api/v1/status")).body["connected"] as number;
const group = (name: string, query: string, more: object = {}) =>
  hub.api("PUT", `/api/v1/groups/${name}`, { query, ...more });

/** Technician-Z's ledger goes on. */
async function grow({ z }: TestWorld): Promise<void> {
  const hubRegistered = { hub: "hub", caSha256: "0".repeat(64), codeSha256: "0".repeat(64) };
  await z.signed("hub-registered", { name: z.id, digest: { sha256: "0".repeat(64) } }, hubRegistered);
  await z.publish();
}

describe("custody facts on the hub", () => {
  it("come from passports that are verified against what an operator named, and from no others", async () => {
    await expect(countersign("hub", "passports", "add", passports[0]!)).rejects.toMatchObject({
      code: "state-conflict",
    });
    const other = await testWorld(1);
    writeFileSync(join(files, "other.pem"), pem(other.root));
    const trust = ["--policy", join(files, "policy.json")];
    await expect(
      countersign("hub", "passports", "trust", "--root", join(files, "other.pem"), ...trust),
    ).rejects.toMatchObject({ code: "policy-invalid" });
    const said = await countersign("hub", "passports", "trust", "--root", join(files, "root.pem"), ...trust);
    expect(said).toContain("ledgers of company-x, factory-y, technician-z");

    const foreign = join(files, "foreign.json");
    writeFileSync(foreign, fromUtf8(canonicalJson(await buildPassport("DEV-00001", await sourceOf(other)))));
    await expect(countersign("hub", "passports", "add", foreign)).rejects.toMatchObject({ code: "passport-invalid" });
    const bad = join(files, "bad.json");
    writeFileSync(bad, "{}");
    await expect(countersign("hub", "passports", "add", bad)).rejects.toMatchObject({ code: "passport-invalid" });

    const line = await countersign("hub", "passports", "add", passports[0]!);
    expect(line).toMatch(/^DEV-00001: .*lot LOT-1.*installer technician-z/);
    const shown = JSON.parse(await countersign("hub", "passports", "show", "DEV-00001", "--json"));
    expect(shown).toMatchObject({
      facts: { builder: "factory-y", installed: expect.stringMatching(/^20\d\d-/), under: expect.anything() },
      takenBy: "alice",
    });
    await grow(world);
    const later = join(files, "later.json");
    writeFileSync(later, fromUtf8(canonicalJson(await buildPassport("DEV-00001", await sourceOf(world)))));
    for (const file of [passports[0]!, later, later]) await countersign("hub", "passports", "add", file);
    await expect(countersign("hub", "passports", "add", passports[0]!)).rejects.toMatchObject({
      code: "state-conflict",
    });
    await countersign("hub", "passports", "remove", "DEV-00001");
    await expect(countersign("hub", "passports", "show", "DEV-00001")).rejects.toMatchObject({ code: "not-found" });
  });

  it("decide who is created on first connect", async () => {
    expect((await hub.api("PUT", "/api/v1/cas/company-x/enrolment", { enrolment: "registered" })).status).toBe(200);
    expect((await group("installed", "installer = technician-z", { enrolment: "first-connect" })).status).toBe(200);
    expect(await comes(0)).toBe(false);
    await countersign("hub", "passports", "add", passports[0]!);
    expect(await comes(0)).toBe(true);
    expect(await comes(1)).toBe(false);
    // Of another key: a passport is no leave for whoever else has the ID's certificate.
    const stranger = throwawayKey();
    const certificate = issue(world.z.ca, "idevid", { commonName: "DEV-00002" }, stranger.spki);
    await countersign("hub", "passports", "add", passports[1]!);
    const chain = pem(certificate, world.z.ca.certificate, world.y.ca.certificate);
    const key = String(stranger.privateKey.export({ type: "pkcs8", format: "pem" }));
    await expect(connectAzure(hub, { id: "DEV-00002", chain, key })).rejects.toThrow();
    expect(await comes(1)).toBe(true);
  });

  it("keep devices out by lot and time, at once, and say what they may use", async () => {
    const client = await connectAzure(hub, deviceOf(0));
    expect(await connected()).toBe(1);
    expect((await group("later", "lot = LOT-1 and installed > 2090")).status).toBe(200);
    await hub.api("POST", "/api/v1/groups/later/disable");
    expect(await connected()).toBe(1);
    const gone = new Promise((resolve) => client.once("disconnect", resolve));
    client.setRetryPolicy({ shouldRetry: () => false, nextRetryTimeout: () => 0 } as never);
    const start = performance.now();
    await group("later", "lot = LOT-1 and installed > 2020-07 and under factory-y");
    await gone;
    // Told, not found at the next look (10 s).
    expect(performance.now() - start).toBeLessThan(5_000);
    expect(await comes(0)).toBe(false);
    // What isn't known any more keeps nobody out.
    await countersign("hub", "device", "create", "DEV-00003");
    expect(await comes(2)).toBe(true);
    const third = await connectAzure(hub, deviceOf(2));
    third.setRetryPolicy({ shouldRetry: () => false, nextRetryTimeout: () => 0 } as never);
    const ended = new Promise((resolve) => third.once("disconnect", resolve));
    await countersign("hub", "passports", "add", passports[2]!);
    await ended;
    expect(await comes(2)).toBe(false);
    await countersign("hub", "passports", "remove", "DEV-00003");
    expect(await comes(2)).toBe(true);
    await hub.api("DELETE", "/api/v1/groups/later");
    await group("twins", "technician != nobody and built > 2020", { scopes: ["twin"] });
    const bound = await connectAzure(hub, deviceOf(0));
    bound.setRetryPolicy({ shouldRetry: () => false, nextRetryTimeout: () => 0 } as never);
    const cut = new Promise((resolve) => bound.once("disconnect", resolve));
    void bound.sendEvent(new azureDevice.Message("{}")).catch(() => undefined);
    await cut;
    await hub.api("DELETE", "/api/v1/groups/twins");
  });

  it("are asked for, together with what the hub saw itself", async () => {
    const ask = async (query: string) => JSON.parse(await countersign("hub", "groups", "ask", query, "--json"));
    expect(await ask("installer = technician-z and connected > 2020")).toEqual(["DEV-00001", "DEV-00002"]);
    expect(await ask("under technician-z and lot != LOT-1")).toEqual([]);
    expect(await ask('issuer = "Technician-Z CA" and not builder = factory-y')).toEqual(["DEV-00003"]);
    await expect(ask("state = enabled and lot = ")).rejects.toMatchObject({ code: "input-invalid" });
    const refused = await group("g", "state = enabled");
    expect([refused.status, refused.body["code"]]).toEqual([400, "input-invalid"]);
  });

  it("end with the policy that they were verified under", async () => {
    expect(await comes(0)).toBe(true);
    await hub.api("DELETE", "/api/v1/devices/DEV-00001");
    const { "factory-y": _gone, ...logs } = world.policy.logs;
    writeFileSync(join(files, "less.json"), JSON.stringify({ ...world.policy, logs }));
    const root = ["--root", join(files, "root.pem")];
    await countersign("hub", "passports", "trust", ...root, "--policy", join(files, "less.json"));
    await expect(countersign("hub", "passports", "add", passports[0]!)).rejects.toMatchObject({
      code: "passport-invalid",
    });
    expect(
      await eventually(
        () => comes(0),
        (in_) => !in_,
      ),
    ).toBe(false);
  });
});
