import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import { beforeAll, describe, expect, it } from "vitest";
import { checkCsr, parseCsr } from "../lib/pki/csr.ts";
import { pemEncode } from "../lib/pki/pem.ts";
import { PROJECT_ROOT, type SoftHsm, softHsmStore, softhsmDir, tempDir, tool } from "../test/support/index.ts";
import {
  type Chip,
  attemptExtraction,
  chipTokenLabel,
  createPinFile,
  DEVICE_KEY_LABEL,
  type DeviceKey,
  finalizeModule,
  initToken,
  listTokens,
  makeDeviceKey,
  nodeVerify,
  openDeviceKey,
  parsePkcs11Uri,
} from "./index.ts";

let hsm: SoftHsm;
let dir: string;
beforeAll(() => {
  hsm = softhsmDir();
  dir = tempDir("chips");
});

async function chip(deviceId: string): Promise<Chip> {
  const pin = await createPinFile(join(dir, `${chipTokenLabel(deviceId)}.pin`));
  return { module: hsm.module, token: chipTokenLabel(deviceId), pin };
}

describe("a tray of chips", () => {
  it("makes a key and a CSR in each, none of which another PIN opens", async () => {
    const ids = Array.from({ length: 20 }, (_, i) => `tray-${i}`);
    const devices: { id: string; key: DeviceKey }[] = [];
    for (const id of ids) devices.push({ id, key: await makeDeviceKey(await chip(id)) });
    const requests = await Promise.all(devices.map(({ id, key }) => key.csr(id)));
    for (const [i, der] of requests.entries()) {
      const csr = parseCsr(der);
      await checkCsr(csr, nodeVerify);
      expect(csr.subjectCn).toBe(ids[i]);
      expect(csr.spki).toEqual(devices[i]!.key.spki);
    }
    const path = join(dir, "csr.pem");
    writeFileSync(path, pemEncode("CERTIFICATE REQUEST", requests[7]!));
    expect(() =>
      execFileSync(tool("openssl"), ["req", "-in", path, "-noout", "-verify"], { stdio: "pipe" }),
    ).not.toThrow();
    expect(new Set(devices.map(({ key }) => Buffer.from(key.spki).toString("hex"))).size).toBe(20);
    expect(listTokens(hsm.module)).toHaveLength(20);
    for (const { key } of devices) await key.close();

    const [first, second] = devices as [(typeof devices)[0], (typeof devices)[0]];
    await expect(openDeviceKey({ ...first.key.chip, pin: second.key.chip.pin })).rejects.toMatchObject({
      code: "hsm-pin-wrong",
    });
    const again = await openDeviceKey(first.key.chip);
    expect(again.spki).toEqual(first.key.spki);
    await again.close();
  });

  it("makes one key a chip, which never leaves it", async () => {
    const one = await chip("sn:0001");
    await (await makeDeviceKey(one)).close();
    await expect(makeDeviceKey(one)).rejects.toMatchObject({ code: "already-exists" });
    const config = { module: one.module, uri: `pkcs11:token=${encodeURIComponent(one.token)}`, pin: one.pin };
    expect(await attemptExtraction(config, DEVICE_KEY_LABEL)).toEqual({
      readValue: "CKR_ATTRIBUTE_SENSITIVE",
      wrap: "CKR_KEY_UNEXTRACTABLE",
    });
  });

  it("completes a chip that a crash left without a key", async () => {
    const half = await chip("half-made");
    await initToken({ module: half.module, label: half.token, pin: half.pin });
    await expect(openDeviceKey(half)).rejects.toMatchObject({ code: "hsm-key-missing" });
    const key = await makeDeviceKey(half);
    await checkCsr(parseCsr(await key.csr("half-made")), nodeVerify);
    await key.close();
  });

  it("names tokens within PKCS#11's 32 bytes, one name an ID", async () => {
    expect(chipTokenLabel("sn-1")).toBe("sn-1");
    const [a, b] = [`${"x".repeat(63)}a`, `${"x".repeat(63)}b`];
    expect(Buffer.byteLength(chipTokenLabel(a))).toBe(32);
    expect(chipTokenLabel(a)).not.toBe(chipTokenLabel(b));
    expect(() => chipTokenLabel("../x")).toThrow(expect.objectContaining({ code: "device-id-invalid" }));
    const long = await makeDeviceKey(await chip(a));
    expect(parseCsr(await long.csr(a)).subjectCn).toBe(a);
    await long.close();
  });

  it("lends its key to OpenSSL's engine by a URI without a PIN", async () => {
    const key = await makeDeviceKey(await chip("engine-1"));
    const uri = key.engineUri;
    expect(parsePkcs11Uri(uri)).toMatchObject({ token: "engine-1", object: "device", type: "private" });
    const text = execFileSync(
      tool("openssl"),
      ["req", "-new", "-engine", "pkcs11", "-keyform", "engine", "-key", uri, "-subj", "/CN=engine-1"],
      {
        encoding: "utf8",
        stdio: ["ignore", "pipe", "pipe"],
        env: { ...process.env, ...hsm.env, PKCS11_MODULE_PATH: hsm.module },
      },
    );
    const csr = parseCsr(text.slice(text.indexOf("-----BEGIN")));
    await checkCsr(csr, nodeVerify);
    expect(csr.spki).toEqual(key.spki);
    await key.close();
  });
});

describe("a module", () => {
  it("signs from a worker thread too, which can't finalize it", async () => {
    const shared = await chip("threads");
    const key = await makeDeviceKey(shared);
    const program = `
      const { parentPort, workerData } = require("node:worker_threads");
      import(workerData.room).then(async (room) => {
        const key = await room.openDeviceKey(workerData.chip);
        const message = Buffer.from("from a worker");
        const signatures = await Promise.all(Array.from({ length: 50 }, () => key.signer.sign(message)));
        await key.close();
        let refused;
        try { room.finalizeModule(workerData.chip.module); } catch (error) { refused = error.code; }
        parentPort.postMessage({ signatures, refused });
      });
    `;
    const room = join(PROJECT_ROOT, "hsm/index.ts");
    const worker = new Worker(program, { eval: true, workerData: { room, chip: shared }, execArgv: [] });
    const answer = new Promise<{ signatures: Uint8Array[]; refused: string }>((resolve, reject) => {
      worker.once("message", resolve);
      worker.once("error", reject);
    });
    const message = Buffer.from("from the main thread");
    const mine = await Promise.all(Array.from({ length: 50 }, () => key.signer.sign(message)));
    expect(mine).toHaveLength(50);
    const { signatures, refused } = await answer;
    expect(refused).toBe("state-conflict");
    const { spki, algorithm } = key.signer;
    for (const signature of signatures) {
      expect(nodeVerify({ spki, algorithm, message: Buffer.from("from a worker"), signature })).toBe(true);
    }
    await new Promise((resolve) => worker.once("exit", resolve));
    await expect(key.signer.sign(message)).resolves.toBeInstanceOf(Uint8Array);
    await key.close();
  });

  it("reads another token directory after it was finalized", async () => {
    const before = listTokens(hsm.module).length;
    expect(before).toBeGreaterThan(0);
    const other = softHsmStore();
    process.env["SOFTHSM2_CONF"] = other.conf;
    finalizeModule(hsm.module);
    expect(listTokens(hsm.module)).toEqual([]);
    const key = await makeDeviceKey(await chip("elsewhere"));
    await key.csr("elsewhere");
    await key.close();
    process.env["SOFTHSM2_CONF"] = hsm.conf;
    finalizeModule(hsm.module);
    expect(listTokens(hsm.module)).toHaveLength(before);
  });
});
