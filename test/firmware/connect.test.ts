import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { makeFleet, trayDirOf } from "../../apps/device/fleet.ts";
import { utf8 } from "../../lib/domain/bytes.ts";
import { bytesReader, IMAGE_LAYOUTS, type Layout } from "../../lib/firmware/index.ts";
import { FIRMWARE_FORMATS } from "../../lib/records/receipt.ts";
import { firmwareFormat } from "../../services/firmware/formats.ts";
import { injectFile } from "../../services/firmware/one-file.ts";
import { countersign } from "../scenarios/countersign.ts";
import { makePartition } from "../support/ext4.ts";
import { startTestHub, type TestHub } from "../support/hub-process.ts";
import { firmware, tempDir, testImage } from "../support/index.ts";
import { mbedtlsParse } from "../support/mbedtls.ts";
import { relinked } from "../support/reserved-elf.ts";
import { seedImages, seedSigner } from "../support/seed-images.ts";
import { CLIENT_AUTH, testCertificate, type TestCertificate } from "../support/test-pki.ts";

/**
 * One device for each format, its key in a token of its own: its process reads the chain out of its image and connects
 * to a hub that knows nothing but the root. Real images where the format has one in the registries.
 */

interface Original {
  readonly image: Uint8Array;
  readonly layout: Layout;
}

function originals(): Record<string, Original> {
  const hex = firmware();
  const seeds = seedImages().map(({ format, image, layout }) => [format, { image, layout }] as const);
  return {
    ...Object.fromEntries(seeds),
    "intel-hex": { image: new Uint8Array(readFileSync(hex.path)), layout: IMAGE_LAYOUTS[hex.name]!.layout },
    mcuboot: { image: testImage("mps2-zephyr.bin"), layout: { length: 0x80000 } },
    elf: { image: relinked(testImage("rp2040-hello-usb.elf"), 0x10000000), layout: {} },
    ext4: { image: makePartition({ files: { "etc/version": utf8("7\n") } }), layout: { path: "/factory/chain.pem" } },
  };
}

const deviceOf = (format: string): string => `dev-${format}`;
const fileOf = (format: string): string => join(folder, `${format}.image`);

let folder: string;
let hub: TestHub;
let root: TestCertificate;
let images: Record<string, Original>;
let chains: Record<string, Uint8Array[]>;
beforeAll(async () => {
  folder = tempDir("connect");
  images = originals();
  hub = await startTestHub();
  root = await testCertificate("CN=root", { ca: true });
  writeFileSync(join(folder, "hub-ca.pem"), hub.infraCa.pem);
  await register();

  const factory = await testCertificate("CN=factory", { ca: true, issuer: root });
  const technician = await testCertificate("CN=technician", { ca: true, issuer: factory });
  const made = await makeFleet({ dir: join(folder, "fleet"), ids: FIRMWARE_FORMATS.map(deviceOf), out: folder });
  chains = {};
  for (const [i, format] of FIRMWARE_FORMATS.entries()) {
    const csr = made[i]!.csr;
    const leaf = await testCertificate(`CN=${deviceOf(format)}`, { issuer: technician, eku: [CLIENT_AUTH], csr });
    chains[format] = [leaf.der, technician.der, factory.der];
    const { image, layout } = images[format]!;
    writeFileSync(join(folder, "original"), image);
    const request = { format, layout, chain: chains[format], image: join(folder, "original"), out: fileOf(format) };
    await injectFile({ ...request, signer: seedSigner() });
  }
});
afterAll(() => hub?.stop());

async function register(): Promise<void> {
  const { body } = await hub.api("POST", "/api/v1/cas", { name: "company-x", certificate: root.pem });
  const verification = await testCertificate(`CN=${String(body["code"])}`, { issuer: root });
  const answer = await hub.api("POST", "/api/v1/cas/company-x/verify", {
    ca: root.pem,
    verification: verification.pem,
  });
  expect(answer.status).toBeLessThan(300);
}

describe.each(FIRMWARE_FORMATS)("the image of %s", (format) => {
  it("holds what mbedTLS verifies to the root", async () => {
    const { layout } = images[format]!;
    const { chainBytes, encoding } = await firmwareFormat(format).extract(
      bytesReader(new Uint8Array(readFileSync(fileOf(format)))),
      layout,
    );
    // Firmware that maps a file of a file system puts the NUL behind it itself.
    const region = encoding === "pem" ? Buffer.concat([chainBytes, Buffer.of(0)]) : chainBytes;
    const parsed = mbedtlsParse(region, root.der);
    if (!parsed.ok) throw new Error(parsed.why);
    expect(parsed.certificates.map((der) => Buffer.from(der))).toEqual(chains[format]!.map((der) => Buffer.from(der)));
  });
});

it("lets each device connect with the chain that its process reads out of it, and no other device", async () => {
  const index = Object.fromEntries(FIRMWARE_FORMATS.map((format, i) => [format, i]));
  const connect = async (id: string, format: string, own = format) => {
    const settings = Object.entries(images[format]!.layout).filter(([name]) => name !== "length");
    return await countersign([
      ...["device", "connect", "--id", id, "--token-dir", trayDirOf(join(folder, "fleet"), index[own]!)],
      ...[
        "--image",
        fileOf(format),
        "--format",
        format,
        ...settings.flatMap(([name, value]) => [`--${name}`, String(value)]),
      ],
      ...["--hub", hub.address, "--ca", join(folder, "hub-ca.pem"), "--messages", "1", "--json"],
    ]);
  };
  for (let from = 0; from < FIRMWARE_FORMATS.length; from += 3) {
    const visits = FIRMWARE_FORMATS.slice(from, from + 3).map(async (format) => {
      const { code, stdout, stderr } = await connect(deviceOf(format), format);
      expect({ format, code, stderr }).toEqual({ format, code: 0, stderr: "" });
      expect(JSON.parse(stdout)).toMatchObject({ deviceId: deviceOf(format), acknowledged: 1 });
    });
    await Promise.all(visits);
  }
  const thief = await connect(deviceOf("raw"), "uf2", "raw");
  expect(thief.code).toBeGreaterThan(0);
  expect(thief.stderr).toMatch(/key/);
}, 180_000);
