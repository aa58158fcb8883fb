import { afterAll, beforeAll, expect, it } from "vitest";
import { parseCertificate } from "../../lib/pki/certificate.ts";
import { parseCrl } from "../../lib/pki/crl.ts";
import { currentCrl } from "../../store/authority.ts";
import { lotSite, type LotSite } from "../../test/support/lot-site.ts";
import { testCertificate } from "../../test/support/test-pki.ts";
import { keepCrl } from "./crl.ts";

const DAY_MS = 86_400_000;
let site: LotSite;

beforeAll(async () => {
  site = await lotSite();
}, 60_000);
afterAll(() => site?.close());

async function published(at: number): Promise<bigint> {
  await keepCrl(site.db, site.caKey, site.ca, { now: new Date(at) });
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

it("lists what is revoked while the clock is behind its last CRL, under no earlier date", async () => {
  const at = Date.now() + 500 * DAY_MS;
  const before = await published(at);
  const { thisUpdate } = (await currentCrl(site.db))!;
  await site.db.query(
    `INSERT INTO revocation (certificate_leaf, step, target, subject, subject_key_id, certificate, issuer_key_id, serial,
       effect, reason, requested_by, act_leaf, time)
     SELECT '00', 1, 'device', 'dev-1', '00', '\\x00', key_id, '4711', 'final', 'superseded', 'test', '01', now() FROM crl LIMIT 1`,
  );
  expect(await published(at - 5_000)).toBe(before + 1n);
  const crl = parseCrl((await currentCrl(site.db))!.der);
  expect([[...crl.revoked.keys()], crl.thisUpdate]).toEqual([["4711"], thisUpdate]);
});

it("lists what is revoked for one CRL's time beyond its certificate's end, and makes none to leave it out", async () => {
  const at = Date.now() + 600 * DAY_MS;
  const end = new Date(at + 10 * DAY_MS);
  const [leaf, lasting] = await Promise.all([
    testCertificate("CN=short", { notAfter: end }),
    testCertificate("CN=long", { notAfter: new Date(at + 1000 * DAY_MS) }),
  ]);
  const serials = [leaf, lasting].map(({ der }) => parseCertificate(der).serial);
  for (const [i, { der }] of [leaf, lasting].entries()) {
    await site.db.query(
      `INSERT INTO revocation (certificate_leaf, step, target, subject, subject_key_id, certificate, issuer_key_id, serial,
         effect, reason, requested_by, act_leaf, time)
       SELECT $1, 1, 'device', $1, '00', $2, key_id, $3, 'final', 'superseded', 'test', $1, now() FROM crl LIMIT 1`,
      [`short-${i}`, der, serials[i]],
    );
  }
  const after = async (days: number) => {
    const number = await published(at + days * DAY_MS);
    const { revoked } = parseCrl((await currentCrl(site.db))!.der);
    return { number, listed: serials.map((serial) => revoked.has(serial)) };
  };
  const whole = [true, true];
  expect((await after(0)).listed).toEqual(whole);
  // Half a CRL's time later each: the next one.
  expect((await after(20)).listed).toEqual(whole);
  const third = await after(41);
  expect(third.listed).toEqual(whole);
  expect(await after(42)).toEqual(third);
  const fourth = await after(57);
  expect(fourth.listed).toEqual([false, true]);
  expect(fourth.number).toBeGreaterThan(third.number);
  expect(await after(58)).toEqual(fourth);
  // The clock was ahead: the certificate hasn't ended yet.
  expect((await after(5)).listed).toEqual(whole);
});
