import { execFileSync, spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { createPinFile, initToken, openToken, type Token } from "../../hsm/index.ts";
import { fromHex, toHex } from "../../lib/domain/bytes.ts";
import { sha256, sha256Hex } from "../../lib/domain/hash.ts";
import type { Signer } from "../../lib/domain/signing.ts";
import {
  applyPatches,
  bytesReader,
  checkWritten,
  detectFormat,
  firmwareFormat,
  type Layout,
} from "../../lib/firmware/index.ts";
import { encodeUnprotected, parseMcuboot } from "../../lib/firmware/mcuboot-image.ts";
import { spkiPem } from "../../lib/pki/spki.ts";
import { TestChains, type TestChain } from "../support/chains.ts";
import { pythonTool, softhsmDir, tempDir, testImage } from "../support/index.ts";
import { mbedtlsParse } from "../support/mbedtls.ts";
import { board } from "../support/qemu.ts";

/** Real MCUboot images, signed again in a token, as imgtool and a real MCUboot see them. */

let token: Token;
let signer: Signer;
let devices: TestChain[];
beforeAll(async () => {
  const { module } = softhsmDir();
  const pin = await createPinFile(join(tempDir("image-key"), "pin"));
  await initToken({ module, label: "site", pin });
  token = await openToken({ module, uri: "pkcs11:token=site", pin });
  signer = await token.generateImageKey({ label: "image", algorithm: "ec-p256" });
  const cas = await TestChains.create();
  devices = await Promise.all([1, 3, 6].map((length) => cas.leaf(`device-${length}`, length)));
});
afterAll(() => token.close());

async function inject(image: Uint8Array, chain: readonly Uint8Array[], layout: Layout = {}): Promise<Uint8Array> {
  const template = await firmwareFormat("mcuboot").open(bytesReader(image), layout, signer);
  const injection = await template.inject(chain);
  const out = applyPatches(image, injection.patches);
  await checkWritten(template, bytesReader(image), bytesReader(out), injection);
  return out;
}

const inFile = (image: Uint8Array, name = "image.bin"): string => {
  const file = join(tempDir("mcuboot"), name);
  writeFileSync(file, image);
  return file;
};

/** `imgtool verify` with the token's public key. */
function verify(image: Uint8Array): { ok: boolean; says: string } {
  const key = inFile(Buffer.from(spkiPem(signer.spki)), "key.pem");
  const run = spawnSync(pythonTool("imgtool"), ["verify", "-k", key, inFile(image)], { encoding: "utf8" });
  return { ok: run.status === 0, says: run.stdout + run.stderr };
}

interface Tlv {
  type: number;
  value: string;
}

interface Dump {
  tlv_area: { tlvs_prot?: { type: number; data: string }[]; tlvs: { type: number; data: string }[] };
}

/** The TLVs as imgtool reads them. */
function dump(image: Uint8Array): { protected: Tlv[]; tlvs: Tlv[] } {
  const out = execFileSync(pythonTool("imgtool"), ["dumpinfo", "-f", "json", inFile(image)], { encoding: "utf8" });
  const area = (JSON.parse(out) as Dump).tlv_area;
  const read = (tlvs: { type: number; data: string }[]) => tlvs.map(({ type, data }) => ({ type, value: data }));
  return { protected: read(area.tlvs_prot ?? []), tlvs: read(area.tlvs) };
}

const BOOT_RECORD = `
import cbor2, json, sys
print(json.dumps({str(k): v.hex() if isinstance(v, bytes) else v for k, v in cbor2.loads(bytes.fromhex(sys.argv[1])).items()}))
`;

function bootRecord(value: string): Record<string, string> {
  const out = execFileSync(pythonTool("python"), ["-c", BOOT_RECORD, value], { encoding: "utf8" });
  return JSON.parse(out) as Record<string, string>;
}

describe.each(["mps2-zephyr.bin", "nrf52840-zephyr.bin", "tfm-secure.bin"])("%s, signed again by the token", (name) => {
  it("verifies with imgtool, which finds the chain in it; nothing else changed", async () => {
    const original = testImage(name);
    expect((await detectFormat(bytesReader(original))).name).toBe("mcuboot");
    const before = dump(original);
    for (const { chain, root } of devices) {
      const image = await inject(original, chain, { length: 0x80000 });
      expect(verify(image)).toMatchObject({ ok: true });
      const after = dump(image);
      const found = after.protected.at(-1)!;
      expect(found).toEqual({ type: 0xa1, value: toHex(Buffer.concat(chain)) });
      const parsed = mbedtlsParse(fromHex(found.value), root);
      if (!parsed.ok) throw new Error(parsed.why);
      expect(parsed.certificates.map(toHex)).toEqual(chain.map(toHex));

      const kept = (tlvs: Tlv[]) => tlvs.filter(({ type }) => type !== 0x60 && type !== 0xa1);
      expect(kept(after.protected)).toEqual(kept(before.protected));
      expect(after.tlvs.find(({ type }) => type === 1)!.value).toBe(sha256Hex(signer.spki));
      const view = new DataView(original.buffer, original.byteOffset);
      const tlvAt = view.getUint16(8, true) + view.getUint32(12, true);
      expect(Buffer.from(image.subarray(12, tlvAt)).equals(original.subarray(12, tlvAt))).toBe(true);
      expect(Buffer.from(image.subarray(0, 10)).equals(original.subarray(0, 10))).toBe(true);
    }
  });

  it("doesn't verify with a byte changed, even under a digest made anew", async () => {
    const image = await inject(testImage(name), devices[1]!.chain);
    const view = new DataView(image.buffer, image.byteOffset);
    const bodySize = view.getUint16(8, true) + view.getUint32(12, true);
    const covered = bodySize + view.getUint16(10, true);
    image[4000]! ^= 1;
    expect(verify(image)).toMatchObject({ ok: false });
    // The digest is the first TLV behind the area's four bytes and its own four.
    image.set(sha256(image.subarray(0, covered)), covered + 8);
    expect(verify(image)).toMatchObject({ ok: false });
  });
});

it("keeps TF-M's slot, trailer and rollback protection; its boot record names the new signer", async () => {
  const original = testImage("tfm-secure.bin");
  const image = await inject(original, devices[1]!.chain);
  expect(image.length).toBe(original.length);
  expect(Buffer.from(image.subarray(-3136)).equals(original.subarray(-3136))).toBe(true);
  const [before, after] = [dump(original).protected, dump(image).protected];
  expect(after.map(({ type }) => type)).toEqual([0x50, 0x60, 0x40, 0xa1]);
  const record = (tlvs: Tlv[]) => bootRecord(tlvs.find(({ type }) => type === 0x60)!.value);
  expect(record(before)["5"]).toBe(dump(original).tlvs[1]!.value);
  expect(record(after)).toEqual({ ...record(before), 5: sha256Hex(signer.spki) });
});

it("isn't done to an image whose bootloader wants RSA", async () => {
  await expect(inject(testImage("rt1060-zephyr.bin"), devices[1]!.chain)).rejects.toMatchObject({
    code: "key-unsupported",
  });
});

/** What MCUboot and Zephyr say, up to Zephyr's application or the bootloader's refusal. */
async function boot(image: Uint8Array): Promise<string> {
  const files = [inFile(testImage("mps2-mcuboot.hex"), "mcuboot.hex"), `${inFile(image)},addr=0x20050000`];
  return await board(
    files.flatMap((file) => ["-device", `loader,file=${file}`]),
    (said) => /smp_sample: build time|Enter the serial recovery mode/.test(said),
    1,
  );
}

describe("a real MCUboot on mps2-an385, in QEMU", () => {
  it("boots Zephyr from the image that the token signed, the chain in it", async () => {
    const image = await inject(testImage("mps2-zephyr.bin"), devices[2]!.chain, { length: 0x80000 });
    const console = await boot(image);
    expect(console).toContain("Jumping to the first image slot");
    expect(console).toContain("*** Booting Zephyr OS");
    expect(console).toContain("smp_sample: build time");
  });

  it("refuses the same image with one bit of firmware or chain changed", async () => {
    const image = await inject(testImage("mps2-zephyr.bin"), devices[2]!.chain);
    for (const at of [5000, image.length - 400]) {
      const bad = image.slice();
      bad[at]! ^= 1;
      const console = await boot(bad);
      expect(console).toContain("Image in the primary slot is not valid");
      expect(console).toContain("Unable to find bootable image");
      expect(console).not.toContain("*** Booting Zephyr OS");
    }
  });

  it("boots nothing from an image with an unprotected TLV of that type, which imgtool passes", async () => {
    const { body, tlvs } = parseMcuboot(testImage("mps2-zephyr.bin"));
    const image = Buffer.concat([body, encodeUnprotected([...tlvs, { type: 0xa1, value: devices[0]!.chain[0]! }])]);
    const verified = spawnSync(pythonTool("imgtool"), ["verify", inFile(image)], { encoding: "utf8" });
    expect(verified.status).toBe(0);
    const console = await boot(image);
    expect(console).toContain("TLV 161 not permitted");
    expect(console).toContain("Unable to find bootable image");
  });
});
