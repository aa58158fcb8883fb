import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it } from "vitest";
import { TestChains, type TestChain } from "../../test/support/chains.ts";
import { firmware, pythonTool, tempDir } from "../../test/support/index.ts";
import { mbedtlsParse } from "../../test/support/mbedtls.ts";
import { fromUtf8 } from "../domain/bytes.ts";
import {
  applyPatches,
  bytesReader,
  detectFormat,
  encodeChain,
  erasedPartition,
  firmwareFormat,
  IMAGE_LAYOUTS,
  type Layout,
} from "./index.ts";

/** What other people's readers make of our images: Python's intelhex, Espressif's own tool, Debian's mbedTLS. */

let devices: TestChain[];
beforeAll(async () => {
  const cas = await TestChains.create();
  devices = await Promise.all([1, 2, 3, 4, 6].map((length) => cas.leaf(`device-${length}`, length)));
});

async function inject(name: string, image: Uint8Array, { chain }: TestChain, layout: Layout): Promise<Uint8Array> {
  const template = await firmwareFormat(name).open(bytesReader(image), layout);
  return applyPatches(image, (await template.inject(chain)).patches);
}

const DUMP = `
import json, sys
from intelhex import IntelHex
image = IntelHex(sys.argv[1])
data = {str(start): image.tobinarray(start=start, end=end - 1).tobytes().hex() for start, end in image.segments()}
print(json.dumps({"start": image.start_addr, "segments": data}))
`;

interface Dump {
  start: Record<string, number>;
  segments: Record<string, string>;
}

function intelhex(image: Uint8Array): Dump {
  const file = join(tempDir("hex"), "image.hex");
  writeFileSync(file, image);
  return JSON.parse(
    execFileSync(pythonTool("python"), ["-c", DUMP, file], { encoding: "utf8", maxBuffer: 1 << 26 }),
  ) as Dump;
}

describe("the micro:bit's MicroPython with a chain", () => {
  it("is, to Python's intelhex, the same program and the chain", async () => {
    const original = readFileSync(firmware("microbit-micropython").path);
    const { format, layout } = IMAGE_LAYOUTS["microbit-micropython"]!;
    expect((await detectFormat(bytesReader(original))).name).toBe(format);
    const before = intelhex(original);
    for (const device of devices) {
      const image = await inject(format, original, device, layout);
      const chain = encodeChain(device.chain);
      const { start, segments } = intelhex(image);
      expect(start).toEqual(before.start);
      expect(segments[String(layout.offset)]).toBe(Buffer.from(chain).toString("hex"));
      expect({ ...segments, [String(layout.offset)]: undefined }).toEqual(before.segments);
      const lines = new Set(fromUtf8(image).split("\n"));
      for (const line of fromUtf8(original).split("\n")) expect(lines.has(line), line).toBe(true);
    }
  });

  it("keeps its start address where it was, so that a loader sees it last", async () => {
    const original = readFileSync(firmware("microbit-micropython").path);
    const image = await inject("intel-hex", original, devices[2]!, { offset: 0x3e000 });
    expect(fromUtf8(image).slice(-80)).toBe(fromUtf8(original).slice(-80));
  });
});

describe("an esp_secure_cert partition with a chain", () => {
  it("shows Espressif's tool the same chain", async () => {
    for (const device of devices) {
      const image = await inject("esp-secure-cert", erasedPartition(), device, {});
      const chain = encodeChain(device.chain);
      const folder = tempDir("esp");
      writeFileSync(join(folder, "esp_secure_cert.bin"), image);
      execFileSync(
        pythonTool("python"),
        [pythonTool("configure_esp_secure_cert.py"), "--parse_bin", "esp_secure_cert.bin"],
        {
          cwd: folder,
          stdio: "pipe",
        },
      );
      const parsed = join(folder, "esp_secure_cert_parsed_data");
      expect(readFileSync(join(parsed, "contents", "devcert_1_0.pem"))).toEqual(Buffer.from(chain.subarray(0, -1)));
      expect(image.subarray(16 * Math.ceil(chain.length / 16) + 16).every((byte) => byte === 0xff)).toBe(true);
    }
  });

  it("joins what Espressif's tool provisioned, and the tool still reads all of it", async () => {
    const folder = tempDir("esp");
    const build = `
from esp_secure_cert import tlv_format as t
data = b"".join(t.prepare_tlv(kind, 0, body, len(body)) for kind, body in ((t.tlv_type_t.ESP_SECURE_CERT_CA_CERT_TLV, open("ca.pem", "rb").read()), (t.tlv_type_t.ESP_SECURE_CERT_USER_DATA_1_TLV, b"serial 42")))
open("base.bin", "wb").write(data.ljust(0x2000, b"\\xff"))
`;
    const ca = encodeChain([devices[0]!.root]);
    writeFileSync(join(folder, "ca.pem"), ca);
    execFileSync(pythonTool("python"), ["-c", build], { cwd: folder, stdio: "pipe" });
    const base = readFileSync(join(folder, "base.bin"));
    const image = await inject("esp-secure-cert", base, devices[2]!, {});
    writeFileSync(join(folder, "image.bin"), image);
    execFileSync(pythonTool("python"), [pythonTool("configure_esp_secure_cert.py"), "--parse_bin", "image.bin"], {
      cwd: folder,
      stdio: "pipe",
    });
    const parsed = join(folder, "esp_secure_cert_parsed_data");
    expect(readFileSync(join(parsed, "contents", "cacert_0_0.pem"))).toEqual(Buffer.from(ca.subarray(0, -1)));
    expect(readFileSync(join(parsed, "contents", "devcert_1_0.pem"), "utf8").match(/BEGIN/g)).toHaveLength(3);
    const end = base.findLastIndex((byte) => byte !== 0xff) + 1;
    expect(Buffer.from(image.subarray(0, end))).toEqual(base.subarray(0, end));
  });
});

describe("mbedTLS on the device", () => {
  it("reads every certificate of each region, leaf first, and verifies the chain to the root", async () => {
    const hexImage = readFileSync(firmware("microbit-micropython").path);
    for (const device of devices) {
      const regions = [
        await firmwareFormat("intel-hex").extract(
          bytesReader(await inject("intel-hex", hexImage, device, { offset: 0x3e000 })),
        ),
        await firmwareFormat("esp-secure-cert").extract(
          bytesReader(await inject("esp-secure-cert", erasedPartition(), device, {})),
        ),
      ];
      for (const { chainBytes } of regions) {
        const answer = mbedtlsParse(chainBytes, device.root);
        if (!answer.ok) throw new Error(answer.why);
        expect(answer.certificates.map((der) => Buffer.from(der))).toEqual(device.chain.map((der) => Buffer.from(der)));
      }
    }
  });

  it("reads nothing without the final NUL, and doesn't verify below another root", async () => {
    const bytes = encodeChain(devices[2]!.chain);
    expect(mbedtlsParse(bytes.subarray(0, -1)).ok).toBe(false);
    const stranger = await (await TestChains.create(1)).leaf("stranger", 1);
    expect(mbedtlsParse(bytes, stranger.root).ok).toBe(false);
  });
});
