import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { bytesReader, detectFormat, encodeChain, firmwareFormat, type Layout } from "../../lib/firmware/index.ts";
import { TestChains, type TestChain } from "../support/chains.ts";
import { pythonTool, tempDir, testImage } from "../support/index.ts";
import { differences, extracted, injected } from "../support/injection.ts";
import { mbedtlsParse } from "../support/mbedtls.ts";

/** ESP flash images and NVS partitions with chains, as Espressif's own tools and mbedTLS see them. */

let devices: TestChain[];
beforeAll(async () => {
  const cas = await TestChains.create();
  devices = await Promise.all([1, 3, 6].map((length) => cas.leaf(`device-${length}`, length)));
});

async function readAsOnChip(format: string, image: Uint8Array, device: TestChain, layout?: Layout): Promise<void> {
  const { chainBytes } = await extracted(firmwareFormat(format), image, layout);
  const answer = mbedtlsParse(chainBytes, device.root);
  if (!answer.ok) throw new Error(answer.why);
  expect(answer.certificates.map((der) => Buffer.from(der))).toEqual(device.chain.map((der) => Buffer.from(der)));
}

const run = (program: string, args: readonly string[], cwd: string) =>
  execFileSync(pythonTool(program), args, { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });

/** A real table (two OTA slots) with its last slot given up for esp_secure_cert, closed by Python's own MD5. */
function withSecureCert(table: Uint8Array): Buffer {
  const rows = Buffer.from(table.subarray(0, 5 * 32));
  const entry = Buffer.alloc(32);
  entry.set([0xaa, 0x50, 0x3f, 0x06]);
  entry.writeUInt32LE(0x210000, 4);
  entry.writeUInt32LE(0x2000, 8);
  entry.write("esp_secure_cert", 12, "ascii");
  const body = Buffer.concat([rows, entry]);
  const sum = Buffer.concat([
    Buffer.from([0xeb, 0xeb]),
    Buffer.alloc(14, 0xff),
    createHash("md5").update(body).digest(),
  ]);
  return Buffer.concat([body, sum, Buffer.alloc(0xc00, 0xff)]).subarray(0, 0xc00);
}

describe("an ESP32-C3's whole flash", () => {
  it("keeps its bootloader's secure-boot signature, and gives Espressif's tool the chain out of its partition", async () => {
    const dir = tempDir("flash");
    writeFileSync(join(dir, "bootloader.bin"), testImage("esp32c3-bootloader.bin"));
    run("espsecure", ["generate-signing-key", "--version", "2", "--scheme", "rsa3072", "key.pem"], dir);
    const sign = ["sign-data", "--version", "2", "--keyfile", "key.pem", "--output", "signed.bin", "bootloader.bin"];
    run("espsecure", sign, dir);
    const signed = readFileSync(join(dir, "signed.bin"));
    const flash = new Uint8Array(0x400000).fill(0xff);
    flash.set(signed, 0);
    flash.set(withSecureCert(testImage("esp-two-ota-table.bin")), 0x8000);
    flash.set(testImage("esp32c3-bootloader.bin"), 0x10000);
    expect((await detectFormat(bytesReader(flash))).name).toBe("esp-flash");
    await expect(injected(firmwareFormat("raw"), flash, devices[0]!.chain, { offset: 0x1000 })).rejects.toMatchObject({
      code: "image-region-overlap",
    });

    for (const device of devices.slice(1)) {
      const image = await injected(firmwareFormat("esp-flash"), flash, device.chain, {});
      const changed = differences(flash, image);
      expect([changed[0], changed.at(-1)! < 0x212000]).toEqual([0x210000, true]);
      writeFileSync(join(dir, "read.bin"), image.subarray(0, signed.length));
      const verify = ["verify-signature", "--version", "2", "--keyfile", "key.pem", "read.bin"];
      expect(run("espsecure", verify, dir)).toMatch(/verification successful/i);
      writeFileSync(join(dir, "app.bin"), image.subarray(0x10000, 0x10000 + 21000));
      expect(run("esptool", ["--chip", "esp32c3", "image-info", "app.bin"], dir)).toMatch(
        /Validation hash: \w+ \(valid\)/,
      );
      const chip = tempDir("chip");
      writeFileSync(join(chip, "esp_secure_cert.bin"), image.subarray(0x210000, 0x212000));
      run("python", [pythonTool("configure_esp_secure_cert.py"), "--parse_bin", "esp_secure_cert.bin"], chip);
      const parsed = join(chip, "esp_secure_cert_parsed_data", "contents", "devcert_1_0.pem");
      expect(readFileSync(parsed)).toEqual(Buffer.from(encodeChain(device.chain).subarray(0, -1)));
      await readAsOnChip("esp-flash", image, device);
    }
  });

  it("is refused without a partition for certificates, as Espressif's default table has none", async () => {
    const flash = new Uint8Array(0x310000).fill(0xff);
    flash.set(testImage("esp-two-ota-table.bin"), 0x8000);
    const format = firmwareFormat("esp-flash");
    const missing = injected(format, flash, devices[0]!.chain, {});
    await expect(missing).rejects.toMatchObject({ code: "image-region-missing" });
    const layout = { partition: "nvs", namespace: "factory", key: "chain" };
    await readAsOnChip("esp-flash", await injected(format, flash, devices[1]!.chain, layout), devices[1]!, layout);
  });
});

describe("an NVS partition", () => {
  const OTHER =
    "wifi,namespace,,\nssid,data,string,a network\nchannel,data,u8,11\ncal,data,hex2bin,00112233445566778899\n";

  /** What Espressif's generator makes of a list of values. */
  function generated(rows: string, chain?: Uint8Array): Uint8Array {
    const dir = tempDir("nvs");
    if (chain !== undefined) writeFileSync(join(dir, "chain"), chain);
    writeFileSync(join(dir, "values.csv"), `key,type,encoding,value\n${rows}`);
    run("python", ["-m", "esp_idf_nvs_partition_gen", "generate", "values.csv", "nvs.bin", "0x8000"], dir);
    return new Uint8Array(readFileSync(join(dir, "nvs.bin")));
  }

  it.each(["blob", "string"] as const)(
    "with a chain as a %s is, bit for bit, what Espressif's generator makes",
    async (type) => {
      const layout = { namespace: "factory", key: "chain", type };
      const encoding = type === "blob" ? "binary" : "string";
      for (const device of devices) {
        const bytes = encodeChain(device.chain);
        const ours = `factory,namespace,,\nchain,file,${encoding},chain\n`;
        const value = type === "blob" ? bytes : bytes.subarray(0, -1);
        for (const rows of [OTHER, ""]) {
          const before = rows === "" ? new Uint8Array(0x8000).fill(0xff) : generated(rows);
          const image = await injected(firmwareFormat("esp-nvs"), before, device.chain, layout);
          expect(Buffer.from(image).equals(Buffer.from(generated(rows + ours, value)))).toBe(true);
          await readAsOnChip("esp-nvs", image, device);
        }
      }
    },
  );

  it("that a chip's own library filled keeps every value, beside the chain", async () => {
    const original = testImage("esp-nvs.bin");
    expect((await detectFormat(bytesReader(original))).name).toBe("esp-nvs");
    const image = await injected(firmwareFormat("esp-nvs"), original, devices[0]!.chain, {
      namespace: "factory",
      key: "chain",
    });
    // Flash is written as the chip would: bits only go from one to zero.
    expect(differences(original, image).every((at) => (image[at]! & ~original[at]!) === 0)).toBe(true);
    await readAsOnChip("esp-nvs", image, devices[0]!);
  });
});
