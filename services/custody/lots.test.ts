import { afterAll, beforeAll, expect, it } from "vitest";
import { findLot } from "../../store/lots.ts";
import { softhsmDir } from "../../test/support/index.ts";
import { lotSite, ownLot, type LotSite } from "../../test/support/lot-site.ts";
import { openLot } from "./lots.ts";
import { pinTerms } from "./terms.ts";

let technician: LotSite;
let factory: LotSite;
let stranger: LotSite;

beforeAll(async () => {
  const { module } = softhsmDir();
  technician = await lotSite({ party: "technician-z", module, grant: { mayBuild: false } });
  factory = await lotSite({ party: "factory-y", module });
  stranger = await lotSite({ party: "factory-q", module });
  await stranger.db.query("DELETE FROM grant_received");
}, 60_000);
afterAll(async () => {
  for (const site of [technician, factory, stranger]) await site?.close();
});

it("opens no lot to build where the grant doesn't allow building", async () => {
  await expect(ownLot(technician, "own-1", 5)).rejects.toMatchObject({
    code: "grant-exceeded",
    message: expect.stringContaining("mayBuild"),
  });
  expect(await findLot(technician.db, "own-1")).toBeUndefined();
  await ownLot(factory, "own-1", 5);
});

it("opens the lot that another party builds", async () => {
  const layouts = [{ format: "esp-secure-cert" as const, template: "esp-secure-cert.bin" }];
  const asked = { id: "theirs-1", slots: 5, issuer: "technician-z", profile: "ldevid" as const, layouts };
  const terms = await pinTerms(asked, technician.custody.firmwareDir);
  const lot = await openLot(technician.custody, { ...terms, builder: "factory-y", issuer: "technician-z" }, []);
  expect(lot).toMatchObject({ builder: "factory-y", state: "open" });
});

it("opens none under a grant that is over, and none without a grant", async () => {
  const late = { ...factory, custody: { ...factory.custody, now: () => new Date("2100-01-01T00:00:00.000Z") } };
  await expect(ownLot(late, "late-1", 5)).rejects.toMatchObject({ code: "grant-expired" });
  await expect(ownLot(stranger, "bare-1", 5)).rejects.toMatchObject({ code: "grant-missing" });
});
