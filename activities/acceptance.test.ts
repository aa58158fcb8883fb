import { afterAll, beforeAll, expect, it } from "vitest";
import { parseCrl } from "../lib/pki/crl.ts";
import { currentCrl } from "../store/authority.ts";
import { lotSite, type LotSite } from "../test/support/lot-site.ts";
import { renewCrl } from "./acceptance.ts";

const DAY_MS = 86_400_000;
let site: LotSite;

beforeAll(async () => {
  site = await lotSite();
}, 60_000);
afterAll(() => site?.close());

async function published(at: number): Promise<bigint> {
  await renewCrl(site.db, site.caKey, new Date(at));
  return parseCrl((await currentCrl(site.db))!.der).number!;
}

it("numbers a CRL above every published one, also after the database was set back to a backup", async () => {
  const start = Date.now();
  const backup = await published(start);
  const lost = [await published(start + 100 * DAY_MS), await published(start + 200 * DAY_MS)];
  expect(lost[0]).toBeGreaterThan(backup);
  expect(lost[1]).toBeGreaterThan(lost[0]!);
  await site.db.query("DELETE FROM crl WHERE number > $1", [backup]);
  await site.db.query("DELETE FROM ca_intent WHERE kind = 'crl' AND (request ->> 'number')::bigint > $1", [backup]);
  const restored = await published(start + 210 * DAY_MS);
  expect(restored).toBeGreaterThan(lost[1]!);
  // A clock that was set back takes none back.
  await site.db.query(
    "UPDATE crl SET this_update = now() - interval '20 days', next_update = now() - interval '1 day'",
  );
  expect(await published(start + DAY_MS)).toBe(restored + 1n);
});

it("makes one CRL of two that are asked for at once", async () => {
  const at = Date.now() + 400 * DAY_MS;
  expect(new Set(await Promise.all([published(at), published(at)])).size).toBe(1);
});
