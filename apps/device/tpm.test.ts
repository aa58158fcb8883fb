import { execFileSync } from "node:child_process";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  attemptExtraction,
  type Chip,
  createPinFile,
  describeKeys,
  finalizeModule,
  makeDeviceKey,
  nodeVerify,
} from "../../hsm/index.ts";
import { checkCsr, parseCsr } from "../../lib/pki/csr.ts";
import { countersign } from "../../test/scenarios/countersign.ts";
import { registerTestCa, startTestHub, type TestHub } from "../../test/support/hub-process.ts";
import { softhsmDir, tempDir, tool } from "../../test/support/index.ts";
import { softTpm, type SoftTpm } from "../../test/support/swtpm.ts";
import { CLIENT_AUTH, testCertificate } from "../../test/support/test-pki.ts";
import { enlist } from "./device.ts";
import { chipOf, openTray, trayEnvironment } from "./tray.ts";

const ID = "dev-in-a-tpm";

let dir: string;
let place: string[];
let soft: SoftTpm;
let hub: TestHub;
beforeAll(async () => {
  dir = tempDir("tpm-device");
  place = ["--token-dir", join(dir, "tpm"), "--id", ID];
  [soft, hub] = await Promise.all([softTpm(), startTestHub()]);
}, 60_000);
afterAll(async () => {
  await hub?.stop();
  await soft?.stop();
});

/** By the commands that a user has. */
async function run(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await countersign(args);
  expect({ args, code, stderr }).toEqual({ args, code: 0, stderr: "" });
  return stdout;
}

async function extractionOf(chip: Chip) {
  const config = { module: chip.module, uri: `pkcs11:token=${chip.token}`, pin: chip.pin };
  const [key] = await describeKeys(config);
  expect(key).toMatchObject({
    label: "device",
    sensitive: true,
    extractable: false,
    neverExtractable: true,
    local: true,
  });
  return await attemptExtraction(config, "device");
}

describe("a device with a TPM 2", () => {
  it("makes its key and its request in it, and connects with it", { timeout: 120_000 }, async () => {
    const { keyId, created } = JSON.parse(await run("device", "keygen", ...place, "--tpm", soft.tcti, "--json"));
    expect(created).toBe(true);
    const file = join(dir, "csr.pem");
    expect(JSON.parse(await run("device", "csr", ...place, "--out", file, "--json"))).toMatchObject({ keyId });
    const csr = parseCsr(readFileSync(file, "utf8"));
    await checkCsr(csr, nodeVerify);
    expect(csr.subjectCn).toBe(ID);
    const openssl = ["req", "-in", file, "-noout", "-verify"];
    expect(() => execFileSync(tool("openssl"), openssl, { stdio: "pipe" })).not.toThrow();

    const root = await testCertificate("CN=root", { ca: true });
    const ca = await testCertificate("CN=technician", { ca: true, issuer: root });
    const request = { issuer: ca, eku: [CLIENT_AUTH], csr: readFileSync(file, "utf8") };
    const leaf = await testCertificate(`CN=${ID}`, request);
    await registerTestCa(hub, "company-x", root);
    writeFileSync(join(dir, "hub-ca.pem"), hub.infraCa.pem);
    writeFileSync(join(dir, "chain.pem"), leaf.pem + ca.pem);
    const visit = ["--hub", hub.address, "--ca", join(dir, "hub-ca.pem"), "--messages", "2", "--json"];
    const connect = () => run("device", "connect", ...place, "--chain", join(dir, "chain.pem"), ...visit);
    const connected = JSON.parse(await connect());
    expect(connected).toMatchObject({ deviceId: ID, acknowledged: 2 });
    console.log(`with the key in a TPM: connected in ${connected.connectMs} ms`);
    // What the first visit had loaded is gone from the TPM's few slots.
    expect(JSON.parse(await connect())).toMatchObject({ acknowledged: 2 });
  });

  it("lets nobody take its key out, as little as a SoftHSM token does", async () => {
    const tray = openTray(join(dir, "tpm"));
    const reaching = trayEnvironment(tray);
    Object.assign(process.env, reaching);
    const chip = chipOf(tray, ID);
    try {
      // The module knows neither the value nor how to wrap: a TPM has no command for the one, nor this key for the other.
      expect(await extractionOf(chip)).toEqual({
        readValue: "CKR_ATTRIBUTE_TYPE_INVALID",
        wrap: "CKR_FUNCTION_NOT_SUPPORTED",
      });
      expect(statSync(chip.pin.file).mode & 0o077).toBe(0);
    } finally {
      finalizeModule(chip.module);
      for (const name of Object.keys(reaching)) delete process.env[name];
    }
    const { module } = softhsmDir();
    const beside: Chip = { module, token: ID, pin: await createPinFile(join(dir, "softhsm.pin")) };
    await (await makeDeviceKey(beside)).close();
    expect(await extractionOf(beside)).toEqual({ readValue: "CKR_ATTRIBUTE_SENSITIVE", wrap: "CKR_KEY_UNEXTRACTABLE" });
  });

  it("is the only one of its TPM", () => {
    const tray = openTray(join(dir, "tpm"), { create: true, tpm: soft.tcti });
    expect(() => enlist(tray, ["dev-2"])).toThrow(expect.objectContaining({ code: "state-conflict" }));
    expect(() => openTray(tray.dir, { tpm: "device:/dev/tpmrm0" })).toThrow(expect.objectContaining({ code: "usage" }));
  });
});
