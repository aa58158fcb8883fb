import { mkdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { auditLedgers, type AuditResult } from "../../../lib/ledger/audit/ledgers.ts";
import { parseEntry } from "../../../lib/records/statement.ts";
import type { Receipt } from "../../../lib/records/receipt.ts";
import { tempDir } from "../../../test/support/index.ts";
import { pem } from "../../../test/support/issuing.ts";
import { opensslVerify } from "../../../test/support/memory-log.ts";
import { sha, testWorld, type TestWorld } from "../../../test/support/world.ts";
import { checkDeviceFiles } from "./files.ts";

const DEVICE = "DEV-00001";

describe("the files beside the ledgers", () => {
  let world: TestWorld;
  let result: AuditResult;
  let receipt: Receipt;
  let dir: string;
  beforeAll(async () => {
    world = await testWorld(1);
    const parties = new Map([world.x, world.y, world.z].map((party) => [party.id, party]));
    const { root, policy } = world;
    result = await auditLedgers({
      root,
      policy,
      verify: opensslVerify,
      fetch: async (id, path) => {
        const party = parties.get(id)!;
        return path.startsWith("blobs/") ? party.blobs.get(path.slice(6)) : party.log.fetch(path);
      },
    });
    for (const entry of world.z.log.entries) {
      const { act } = parseEntry(entry);
      if (act.type === "injected") receipt = act.fields.receipt;
    }
  });
  beforeEach(async () => {
    dir = tempDir("evidence");
    await mkdir(join(dir, "devices", DEVICE), { recursive: true });
    await mkdir(join(dir, "firmware"));
    await mkdir(join(dir, "parties", "technician-z"), { recursive: true });
    await put("firmware/blank.bin", "blank");
    await put(`devices/${DEVICE}/image.bin`, "image 0");
    await put(`devices/${DEVICE}/receipt.json`, JSON.stringify(receipt));
    await put("parties/technician-z/ca.pem", pem(world.z.ca.certificate));
  });
  afterEach(() => rm(dir, { recursive: true, force: true }));
  const put = (path: string, text: string) => writeFile(join(dir, path), text);
  const complaints = async () => (await checkDeviceFiles(dir, result)).map(({ message }) => message);

  it("are as they were logged", async () => {
    expect(await complaints()).toEqual([]);
  });

  it("aren't, when image and receipt were changed together", async () => {
    await put(`devices/${DEVICE}/image.bin`, "a backdoor");
    expect(await complaints()).toEqual([expect.stringMatching(/not the file that the receipt describes/)]);
    const forged = { ...receipt, image: { ...receipt.image, sha256: sha("a backdoor") } };
    await put(`devices/${DEVICE}/receipt.json`, JSON.stringify(forged));
    expect(await complaints()).toEqual([expect.stringMatching(/not the one that was logged/)]);
  });

  it("aren't, when an image lies there without its receipt", async () => {
    await put(`devices/${DEVICE}/image.hex`, "a backdoor");
    expect(await complaints()).toEqual([expect.stringMatching(/image.hex is an image that no receipt describes/)]);
    await rm(join(dir, "devices", DEVICE, "image.hex"));
    await rm(join(dir, "devices", DEVICE, "receipt.json"));
    expect(await complaints()).toEqual([expect.stringMatching(/image.bin is an image that no receipt describes/)]);
  });

  it("aren't, when a party's CA certificate is another one", async () => {
    await put("parties/technician-z/ca.pem", pem(world.y.ca.certificate));
    expect(await complaints()).toEqual([expect.stringMatching(/ca.pem is not the certificate/)]);
  });
});
