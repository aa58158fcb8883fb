import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, it, vi } from "vitest";
import { Command } from "commander";
import { createPinFile, initToken, nodeVerify, openToken } from "../../../hsm/index.ts";
import { concatBytes } from "../../../lib/domain/bytes.ts";
import { sha256Hex } from "../../../lib/domain/hash.ts";
import { pemEncode } from "../../../lib/pki/pem.ts";
import { encodeProtected, parseMcuboot } from "../../../lib/firmware/mcuboot-image.ts";
import { TestChains } from "../../../test/support/chains.ts";
import { softhsmDir, tempDir, testImage } from "../../../test/support/index.ts";
import { registerFirmware } from "./firmware.ts";

/** `firmware inject --format mcuboot --site ID`: the site's own token signs. */

let home: string;
let spki: Uint8Array;
beforeAll(async () => {
  home = tempDir("image-key");
  const { module } = softhsmDir();
  const folder = join(home, "technician-z");
  mkdirSync(join(folder, "secrets"), { recursive: true });
  const pin = await createPinFile(join(folder, "secrets", "token.pin"));
  await initToken({ module, label: "technician-z", pin });
  const token = await openToken({ module, uri: "pkcs11:token=technician-z", pin });
  ({ spki } = await token.generateImageKey({ label: "image", algorithm: "ec-p256" }));
  await token.close();
  const site = {
    schema: "countersign/site/v1",
    party: "technician-z",
    name: "Technician-Z",
    role: "technician",
    origin: "countersign.example/technician-z",
    organization: "Technician-Z",
    database: { url: "postgres://u@127.0.0.1:9/d", passwordFile: "secrets/db.password" },
    temporal: { address: "127.0.0.1:9", namespace: "technician-z" },
    hsm: { module, tokens: { site: { uri: "pkcs11:token=technician-z", pinFile: "secrets/token.pin" } } },
    gateway: {
      port: 0,
      publicPort: 0,
      url: "https://127.0.0.1:9",
      publicUrl: "http://127.0.0.1:9",
      tls: { keyFile: "infra/gateway.key", certFile: "infra/gateway.pem", clientCaFile: "infra/ca.pem" },
    },
    imagesDir: "images",
    firmwareDir: "firmware",
  };
  writeFileSync(join(folder, "site.json"), JSON.stringify(site));
  const { chain } = await (await TestChains.create(3)).leaf("device-1", 3);
  writeFileSync(join(home, "chain.pem"), chain.map((der) => pemEncode("CERTIFICATE", der)).join(""));
  writeFileSync(join(home, "app.bin"), testImage("mps2-zephyr.bin"));
});

/** Runs `countersign firmware inject`; what it says, on either stream. */
async function inject(...more: string[]): Promise<string> {
  let said = "";
  const spies = [process.stdout, process.stderr].map((stream) =>
    vi.spyOn(stream, "write").mockImplementation((text) => {
      said += String(text);
      return true;
    }),
  );
  vi.stubEnv("COUNTERSIGN_HOME", home);
  try {
    const program = new Command().exitOverride();
    registerFirmware(program);
    const files = [
      "--chain",
      join(home, "chain.pem"),
      "--image",
      join(home, "app.bin"),
      "--out",
      join(home, "out.bin"),
    ];
    await program.parseAsync(["firmware", "inject", "--format", "mcuboot", ...files, ...more], { from: "user" });
  } finally {
    vi.unstubAllEnvs();
    for (const spy of spies) spy.mockRestore();
  }
  return said;
}

describe("firmware inject --format mcuboot", () => {
  it("is signed by the site that is named, and says what an update does to the chain", async () => {
    expect(await inject("--site", "technician-z", "--length", "0x80000")).toMatch(
      /over-the-air image .* overwrites it/,
    );
    const image = parseMcuboot(new Uint8Array(readFileSync(join(home, "out.bin"))));
    const [digest, key, signature] = image.tlvs;
    const message = concatBytes(image.body, encodeProtected(image.protectedTlvs));
    expect(Buffer.from(digest!.value).toString("hex")).toBe(sha256Hex(message));
    expect(Buffer.from(key!.value).toString("hex")).toBe(sha256Hex(spki));
    const check = { spki, algorithm: "ecdsa-p256-sha256", message, signature: signature!.value } as const;
    expect(nodeVerify(check)).toBe(true);
  });

  it("isn't without a site, or by one that isn't here", async () => {
    await expect(inject()).rejects.toMatchObject({ code: "usage" });
    await expect(inject("--site", "factory-y")).rejects.toThrow(/factory-y/);
  });
});
