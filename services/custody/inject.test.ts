import { mkdirSync } from "node:fs";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { sha256Hex } from "../../lib/domain/hash.ts";
import type { Signer } from "../../lib/domain/signing.ts";
import { findInjections } from "../../store/injections.ts";
import { getLot } from "../../store/lots.ts";
import { certifyDevices, lotSite, testDevices, type LotSite, type TestDevice } from "../../test/support/lot-site.ts";
import { seedImages, seedSigner } from "../../test/support/seed-images.ts";
import { injectNext, startInjection } from "./inject.ts";
import { openOwnLot } from "./lots.ts";
import { imageFaults } from "./read-back.ts";

let site: LotSite;
let signer: Signer;
beforeAll(async () => {
  site = await lotSite();
  signer = seedSigner();
}, 60_000);
afterAll(() => site?.close());

/** A lot whose devices have certificates, with the seed image of a format for a template. */
async function certifiedLot(id: string, format: "mcuboot" | "raw", count: number): Promise<TestDevice[]> {
  const { image, layout } = seedImages().find((seed) => seed.format === format)!;
  const template = `${id}.bin`;
  mkdirSync(site.custody.firmwareDir, { recursive: true });
  await writeFile(join(site.custody.firmwareDir, template), image);
  const layouts = [{ format, template, ...layout }];
  await openOwnLot(site.custody, { id, slots: count, issuer: site.party, profile: "ldevid", layouts });
  const devices = testDevices(count);
  await certifyDevices(site, id, devices);
  return devices;
}

const injections = (devices: readonly TestDevice[]) =>
  findInjections(
    site.db,
    "ldevid",
    devices.map((device) => device.id),
  );

it("leaves the image alone that was recorded when a run that overlaps has signed another one", async () => {
  const devices = await certifiedLot("overlap", "mcuboot", 2);
  const recorded = Promise.withResolvers<void>();
  const signing = Promise.withResolvers<void>();
  const slow: Signer = {
    ...signer,
    async sign(message) {
      signing.resolve();
      await recorded.promise;
      return await signer.sign(message);
    },
  };
  await startInjection(site.custody, { id: "overlap.late", lot: "overlap" });
  await startInjection(site.custody, { id: "overlap.first", lot: "overlap" });
  const late = injectNext({ ...site.custody, imageSigner: slow }, "overlap.late");
  await signing.promise;
  expect(await injectNext({ ...site.custody, imageSigner: signer }, "overlap.first")).toMatchObject({ done: 2 });
  recorded.resolve();
  expect(await late).toMatchObject({ done: 0, failed: 0 });

  for (const { imagePath, receipt } of await injections(devices)) {
    expect(sha256Hex(await readFile(imagePath!))).toBe(receipt!.image.sha256);
    expect(JSON.parse(await readFile(join(dirname(imagePath!), "receipt.json"), "utf8"))).toEqual(receipt);
    expect((await readdir(dirname(imagePath!))).sort()).toEqual(["image.bin", "receipt.json"]);
  }
  expect(
    await imageFaults(
      site.custody,
      await getLot(site.db, "overlap"),
      devices.map(({ id }) => id),
    ),
  ).toEqual(new Map());
});

it("keeps a device here whose image was changed after it was read back, beside the chain too", async () => {
  const devices = await certifiedLot("changed", "raw", 3);
  await startInjection(site.custody, { id: "changed.1", lot: "changed" });
  expect(await injectNext(site.custody, "changed.1")).toMatchObject({ done: 3 });
  const [code, swapped, good] = await injections(devices);
  const lot = await getLot(site.db, "changed");
  const image = await readFile(code!.imagePath!);
  image[5]! ^= 1;
  await writeFile(code!.imagePath!, image);
  await writeFile(swapped!.imagePath!, await readFile(good!.imagePath!));
  const faults = await imageFaults(
    site.custody,
    lot,
    devices.map(({ id }) => id),
  );
  expect([...faults.keys()].sort()).toEqual([code!.device, swapped!.device].sort());
  const refusal = (why: string) => ({ code: "read-back-mismatch", message: expect.stringContaining(why) });
  expect(faults.get(code!.device)).toMatchObject(refusal("changed since"));
  expect(faults.get(swapped!.device)).toMatchObject(refusal(`the certificate of ${good!.device}`));
});
