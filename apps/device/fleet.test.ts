import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { attemptExtraction, describeKeys, nodeVerify } from "../../hsm/index.ts";
import { checkCsr, parseCsr } from "../../lib/pki/csr.ts";
import { connect, type Db } from "../../store/db.ts";
import { listTelemetry } from "../../store/hub-telemetry.ts";
import { registerTestCa, startTestHub, type TestHub } from "../../test/support/hub-process.ts";
import { tempDir } from "../../test/support/index.ts";
import { CLIENT_AUTH, testCertificate, type TestCertificate } from "../../test/support/test-pki.ts";
import { connectFleet, findTray, type MadeDevice, makeFleet } from "./fleet.ts";
import { chipOf, openTray, TRAY_SIZE } from "./tray.ts";

const IDS = ["dev-0001", "dev-0002", "dev:with.every_kind-of-sign-and-64-characters-in-all-0123456789a", "dev-0004"];

let hub: TestHub;
let db: Db;
let dir: string;
let out: string;
let made: MadeDevice[];
let upper: TestCertificate[];

beforeAll(async () => {
  dir = tempDir("fleet");
  out = join(dir, "devices");
  hub = await startTestHub();
  db = connect(hub.databaseUrl);
  const root = await testCertificate("CN=root", { ca: true });
  const factory = await testCertificate("CN=factory", { ca: true, issuer: root });
  const technician = await testCertificate("CN=technician", { ca: true, issuer: factory });
  upper = [technician, factory];
  await registerTestCa(hub, "company-x", root);
  made = await makeFleet({ dir, out, ids: IDS });
});

afterAll(async () => {
  await db?.end();
  await hub?.stop();
});

async function certify(deviceId: string, csr: string): Promise<string> {
  const leaf = await testCertificate(`CN=${deviceId}`, { issuer: upper[0]!, eku: [CLIENT_AUTH], csr });
  return [leaf, ...upper].map(({ pem }) => pem).join("");
}

describe("a fleet of devices", () => {
  it("has a CSR from each chip, signed by the key it names", async () => {
    expect(made.map(({ deviceId }) => deviceId)).toEqual(IDS);
    const keys = new Set<string>();
    for (const { deviceId, csr, keyId } of made) {
      const parsed = parseCsr(csr);
      await checkCsr(parsed, nodeVerify);
      expect(parsed.subjectCn).toBe(deviceId);
      expect(readFileSync(join(out, deviceId, "csr.pem"), "utf8")).toBe(csr);
      keys.add(keyId);
    }
    expect(keys.size).toBe(IDS.length);
  });

  it("keeps what is there when it is made again, and completes what a crash left", async () => {
    const again = await makeFleet({ dir, out, ids: IDS });
    expect(again.map(({ csr }) => csr)).toEqual(made.map(({ csr }) => csr));
    expect(again.some(({ created }) => created)).toBe(false);
    const elsewhere = join(dir, "lost-csrs");
    const completed = await makeFleet({ dir, out: elsewhere, ids: IDS });
    expect(completed.map(({ keyId }) => keyId)).toEqual(made.map(({ keyId }) => keyId));
  });

  it("connects with the keys in its tokens, which nobody can take out", async () => {
    const devices = await Promise.all(
      made.map(async ({ deviceId, csr }) => ({ deviceId, chain: await certify(deviceId, csr) })),
    );
    const seen: string[] = [];
    const outcomes = await connectFleet({
      dir,
      devices,
      hub: hub.address,
      ca: hub.infraCa.pem,
      onOutcome: ({ deviceId }) => seen.push(deviceId),
    });
    expect(outcomes).toEqual(IDS.map((deviceId) => expect.objectContaining({ deviceId, acknowledged: 5 })));
    expect(seen.sort()).toEqual([...IDS].sort());
    for (const deviceId of IDS) {
      const rows = await listTelemetry(db, deviceId, 100);
      expect(rows.map(({ system }) => system["$.mid"]).sort()).toEqual([1, 2, 3, 4, 5].map((n) => `${deviceId}-${n}`));
      for (const { body, properties } of rows) {
        const { temperature, humidity } = JSON.parse(Buffer.from(body).toString());
        expect(humidity).toBeTypeOf("number");
        expect(properties).toEqual({ temperatureAlert: temperature > 30 ? "true" : "false" });
      }
    }

    // The very key that just connected: sensitive, made inside, and the token gives it to nobody, wrapped or not.
    const tray = openTray(findTray(dir, IDS[0]!));
    process.env["SOFTHSM2_CONF"] = join(tray.dir, "softhsm2.conf");
    const { module, token, pin } = chipOf(tray, IDS[0]!);
    const config = { module, uri: `pkcs11:token=${token}`, pin };
    const [key] = await describeKeys(config);
    expect(key).toMatchObject({
      keyId: made[0]!.keyId,
      sensitive: true,
      extractable: false,
      neverExtractable: true,
      local: true,
    });
    expect(await attemptExtraction(config, "device")).toEqual({
      readValue: "CKR_ATTRIBUTE_SENSITIVE",
      wrap: "CKR_KEY_UNEXTRACTABLE",
    });
  });

  it("reports each refusal and goes on with the others", async () => {
    const [one, two] = made as [MadeDevice, MadeDevice];
    const chains = [await certify(one.deviceId, one.csr), await certify(two.deviceId, two.csr)] as const;
    const leafAlone = chains[1].slice(0, chains[1].indexOf("-----END") + 26);
    const outcomes = await connectFleet({
      dir,
      // The third one's certificate is for another key than its token's, the fourth has none yet.
      devices: [
        { deviceId: one.deviceId, chain: chains[0] },
        { deviceId: two.deviceId, chain: leafAlone },
        { deviceId: IDS[2]!, chain: chains[0] },
        { deviceId: IDS[3]! },
      ],
      hub: hub.address,
      ca: hub.infraCa.pem,
      messages: 1,
    });
    expect(outcomes).toEqual([
      expect.objectContaining({ deviceId: one.deviceId, acknowledged: 1 }),
      { deviceId: two.deviceId, error: expect.objectContaining({ code: "hub-refused" }) },
      {
        deviceId: IDS[2],
        error: expect.objectContaining({ code: "certificate-invalid" }),
      },
    ]);
  });

  it("says so when a device's token isn't there, and when a PIN file can be read by others", async () => {
    expect(() => findTray(dir, "dev-9999")).toThrow(expect.objectContaining({ code: "hsm-token-missing" }));
    await expect(makeFleet({ dir, out, ids: ["../etc"] })).rejects.toMatchObject({ code: "device-id-invalid" });
    await expect(makeFleet({ dir, out, ids: ["a", "a"] })).rejects.toMatchObject({ code: "input-invalid" });
    expect(() => openTray(out)).toThrow(expect.objectContaining({ code: "component-missing" }));
    writeFileSync(join(out, "tray.json"), "{}");
    expect(() => openTray(out)).toThrow(expect.objectContaining({ code: "input-invalid" }));
  });

  it("fills one tray after another", async () => {
    const big = tempDir("trays");
    const ids = Array.from({ length: TRAY_SIZE + 2 }, (_, i) => `d${i}`);
    const seen: string[] = [];
    const all = await makeFleet({
      dir: big,
      out: join(big, "devices"),
      ids,
      onDevice: ({ deviceId }) => seen.push(deviceId),
    });
    expect(all.map(({ deviceId }) => deviceId)).toEqual(ids);
    expect(seen.length).toBe(ids.length);
    expect(openTray(findTray(big, "d0")).devices.length).toBe(TRAY_SIZE);
    expect(openTray(findTray(big, "d101")).devices).toEqual(["d100", "d101"]);
  });
});
