import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { csrManifest } from "../../apps/cli/station-key.ts";
import type { CaKey } from "../../hsm/index.ts";
import { toBase64 } from "../../lib/domain/bytes.ts";
import { parseCertificate } from "../../lib/pki/certificate.ts";
import { parseEntry } from "../../lib/records/statement.ts";
import { batchAnswers, type BatchAnswer } from "../../store/batches.ts";
import { readEntries, readHead } from "../../store/ledger.ts";
import { countLot } from "../../store/lots.ts";
import { pem, throwawayKey, throwawayRoot } from "../../test/support/issuing.ts";
import {
  infrastructureClient,
  lotSite,
  ownLot,
  spkiId,
  testDevice,
  testDevices,
  type LotSite,
  type TestDevice,
} from "../../test/support/lot-site.ts";
import { findPkcs11Module, tempDir } from "../../test/support/index.ts";
import { openssl, opensslBytes } from "../../test/support/judge.ts";
import { submitCsrs } from "../intake/submit.ts";
import { recordBuilt } from "./built.ts";
import { issueBatch } from "./certify.ts";
import type { IssuingContext } from "./context.ts";

let site: LotSite;
let station: ReturnType<LotSite["client"]>;
beforeAll(async () => {
  site = await lotSite();
  station = site.client("station");
});
afterAll(() => site.close());

async function post(lot: string, kind: "built" | "certify", csrs: readonly Uint8Array[], at = site): Promise<string> {
  const key = at === site ? station : at.client("station");
  const dsse = await csrManifest(key, kind, lot, csrs);
  return (await submitCsrs(at.intake, lot, dsse, csrs)).id;
}

async function answers(batch: string, at = site): Promise<BatchAnswer[]> {
  const { state, answers } = await batchAnswers(at.db, batch);
  expect(state).toBe("done");
  return answers;
}

async function build(lot: string, devices: readonly (TestDevice | Uint8Array)[], at = site): Promise<BatchAnswer[]> {
  const batch = await post(lot, "built", devices.map(csrOf), at);
  await recordBuilt(at.issuing, batch);
  return await answers(batch, at);
}

async function certify(
  lot: string,
  devices: readonly (TestDevice | Uint8Array)[],
  context: IssuingContext = site.issuing,
  at = site,
): Promise<BatchAnswer[]> {
  const batch = await post(lot, "certify", devices.map(csrOf), at);
  await issueBatch(context, batch);
  return await answers(batch, at);
}

const csrOf = (device: TestDevice | Uint8Array): Uint8Array => (device instanceof Uint8Array ? device : device.csr);
const codes = (list: readonly BatchAnswer[]): (string | null)[] => list.map((answer) => answer.code);

let lots = 0;
async function newLot(slots: number, at = site): Promise<string> {
  const id = `lot-${++lots}`;
  await ownLot(at, id, slots);
  return id;
}

async function ledger(at = site) {
  const { size } = (await readHead(at.db))!;
  return (await readEntries(at.db, 0, size)).map((entry) => parseEntry(entry).act);
}

describe("a lot's devices", () => {
  it("get a slot, then a certificate that openssl verifies, each in the ledger", async () => {
    const lot = await newLot(3);
    const devices = testDevices(3);
    const built = await build(lot, devices);
    expect(built.map((b) => [b.deviceId, b.slot])).toEqual(devices.map((d, i) => [d.id, i + 1]));
    const certified = await certify(lot, devices);
    const dir = tempDir("verify");
    writeFileSync(join(dir, "root.pem"), pem(site.root.certificate));
    writeFileSync(join(dir, "ca.pem"), pem(site.ca));
    for (const [i, answer] of certified.entries()) {
      const certificate = parseCertificate(answer.certificate!);
      expect(certificate.subject.cn).toBe(devices[i]!.id);
      expect(Buffer.from(certificate.spki)).toEqual(Buffer.from(devices[i]!.key.spki));
      writeFileSync(join(dir, "leaf.pem"), pem(certificate));
      const files = ["-CAfile", join(dir, "root.pem"), "-untrusted", join(dir, "ca.pem"), join(dir, "leaf.pem")];
      expect(openssl(["verify", "-x509_strict", "-purpose", "sslclient", ...files])).toMatchObject({ ok: true });
    }
    const acts = await ledger();
    for (const device of devices) {
      const mine = acts.filter((act) => act.subject[0]!.digest.sha256 === spkiId(device));
      expect(mine.map((act) => act.type)).toEqual(["built", "certified"]);
      const [b, c] = mine;
      expect(b!.prev).toHaveLength(1);
      expect(c!.prev).toHaveLength(1);
    }
    expect(await countLot(site.db, lot)).toMatchObject({ built: 3, certified: 3, refused: 0 });
  });

  it("get the same certificate for the same CSR, whenever and however often it is posted", async () => {
    const lot = await newLot(2);
    const devices = testDevices(2);
    await build(lot, devices);
    const first = await certify(lot, devices);
    const second = await certify(lot, [devices[1]!, devices[0]!, devices[1]!]);
    expect(second.map((a) => toBase64(a.certificate!))).toEqual([1, 0, 1].map((i) => toBase64(first[i]!.certificate!)));
    const used = await site.db.query("SELECT count(*) AS n FROM issuance WHERE lot = $1", [lot]);
    expect(used.rows[0].n).toBe(2);
  });

  it("are built once: the same CSR again keeps its slot", async () => {
    const lot = await newLot(5);
    const devices = testDevices(2);
    await build(lot, devices);
    const again = await build(lot, [devices[1]!, ...testDevices(1), devices[0]!]);
    expect(again.map((a) => a.slot)).toEqual([2, 3, 1]);
  });
});

describe("bad items", () => {
  it("are refused by type, and the rest of the batch goes on", async () => {
    const lot = await newLot(20);
    const good = testDevices(3);
    const [a, b, late] = testDevices(3);
    await build(lot, [...good, a!, b!]);
    const forged = testDevice(`${good[0]!.id}x`).csr.slice();
    forged[forged.length - 1]! ^= 1;
    const items: [Uint8Array, string | null][] = [
      [good[0]!.csr, null],
      [forged, "csr-signature-invalid"],
      [testDevice("dev-bad id").csr, "device-id-invalid"],
      [testDevice("other-1").csr, "device-id-outside-namespace"],
      [good[1]!.csr, null],
      [testDevice(a!.id).csr, "device-id-other-key"],
      [testDevice(`${b!.id}-alias`, b!.key).csr, "key-other-device-id"],
      [late!.csr, "device-not-in-lot"],
      [testDevice(a!.id, a!.key).csr, "device-not-in-lot"],
      [good[2]!.csr, null],
      [Uint8Array.of(0x30, 0x03, 1, 2, 3), "csr-invalid"],
    ];
    const before = (await readHead(site.db))!.size;
    const results = await certify(
      lot,
      items.map(([csr]) => csr),
    );
    const got = codes(results);
    got[10] = got[10] === "der-invalid" ? "csr-invalid" : got[10]!;
    expect(got).toEqual(items.map(([, code]) => code));
    for (const [i, result] of results.entries()) expect(result.certificate !== null).toBe(items[i]![1] === null);
    // One intent and three certified records, nothing of the refused ones.
    const added = (await ledger()).slice(before);
    expect(added.map((act) => act.type).sort()).toEqual(["certified", "certified", "certified", "intent"]);
    const rows = await site.db.query("SELECT device FROM issuance WHERE lot = $1 ORDER BY device", [lot]);
    expect(rows.rows.map((row: { device: string }) => row.device)).toEqual(good.map((d) => d.id).sort());
  });

  it.each([
    ["rsa-1024", "key-weak"],
    ["secp256k1", "key-unsupported"],
  ])("a CSR by openssl with an unfit key, %s, is %s", async (kind, code) => {
    const lot = await newLot(2);
    const [good] = testDevices(1);
    const args =
      kind === "rsa-1024" ? ["-newkey", "rsa:1024"] : ["-newkey", "ec", "-pkeyopt", `ec_paramgen_curve:${kind}`];
    const csr = opensslBytes([
      "req",
      "-new",
      ...args,
      "-noenc",
      "-keyout",
      "/dev/null",
      "-subj",
      "/CN=dev-w",
      "-outform",
      "DER",
    ]);
    const built = await build(lot, [csr, good!]);
    expect(codes(built)).toEqual([code, null]);
    expect(built[1]!.slot).toBe(1);
  });

  it("two CSRs with one key, and one id with two keys, in one batch: the first counts", async () => {
    const lot = await newLot(5);
    const [one, two] = testDevices(2);
    const results = await build(lot, [one!, testDevice(`${one!.id}b`, one!.key), two!, testDevice(two!.id)]);
    expect(codes(results)).toEqual([null, "key-other-device-id", null, "device-id-other-key"]);
    expect(await countLot(site.db, lot)).toMatchObject({ built: 2, refused: 2 });
  });
});

describe("races", () => {
  it("two batches for the last slots take each slot once, and the losers are refused", async () => {
    const lot = await newLot(10);
    const [left, right] = [testDevices(8), testDevices(8)];
    const results = (await Promise.all([build(lot, left), build(lot, right)])).flat();
    const slots = results.flatMap((r) => (r.code === null ? [r.slot!] : []));
    expect([...slots].sort((x, y) => x - y)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    expect(codes(results).filter((code) => code !== null)).toEqual(Array(6).fill("slots-exhausted"));
  });

  it("the same device built by two batches at once is one device", async () => {
    const lot = await newLot(10);
    const devices = testDevices(4);
    const [left, right] = await Promise.all([build(lot, devices), build(lot, devices.toReversed())]);
    expect(right.toReversed().map((r) => r.slot)).toEqual(left.map((r) => r.slot));
    expect([...left.map((r) => r.slot!)].sort()).toEqual([1, 2, 3, 4]);
  });

  it("one key under two ids at once belongs to one of them", async () => {
    const lot = await newLot(10);
    const [one] = testDevices(1);
    const results = await Promise.all([build(lot, [one!]), build(lot, [testDevice(`${one!.id}z`, one!.key)])]);
    expect(codes(results.flat()).filter((code) => code === null)).toHaveLength(1);
    expect(codes(results.flat())).toContain("key-other-device-id");
  });

  it("the same batch run twice at once, and the same CSRs in two batches at once, give one certificate each", async () => {
    const lot = await newLot(10);
    const devices = testDevices(5);
    await build(lot, devices);
    const batch = await post(lot, "certify", devices.map(csrOf));
    const other = await post(lot, "certify", devices.map(csrOf));
    await Promise.all([batch, batch, other, batch].map((id) => issueBatch(site.issuing, id)));
    const [one, two] = await Promise.all([answers(batch), answers(other)]);
    expect(one.map((a) => toBase64(a.certificate!))).toEqual(two.map((a) => toBase64(a.certificate!)));
    const acts = (await ledger()).filter((act) => act.type === "certified" && act.fields.lot === lot);
    expect(acts).toHaveLength(5);
  });
});

describe("quota", () => {
  it("is debited for what is certified and for nothing else, and ends exactly", async () => {
    const small = await lotSite({ party: "technician-q", grant: { quota: 5 }, module: findPkcs11Module() });
    try {
      const lot = await newLot(20, small);
      const devices = testDevices(9);
      await build(lot, devices, small);
      const first = await certify(lot, devices.slice(0, 3), small.issuing, small);
      expect(codes(first)).toEqual([null, null, null]);
      const rest = await Promise.all([
        certify(lot, devices.slice(3, 6), small.issuing, small),
        certify(lot, devices.slice(6, 9), small.issuing, small),
        certify(lot, devices.slice(0, 3), small.issuing, small),
      ]);
      expect(codes(rest.slice(0, 2).flat()).filter((c) => c === null)).toHaveLength(2);
      expect(codes(rest.slice(0, 2).flat()).filter((c) => c === "quota-exceeded")).toHaveLength(4);
      expect(codes(rest[2]!)).toEqual([null, null, null]);
      const { rows } = await small.db.query("SELECT used FROM grant_received WHERE current");
      expect(rows[0].used).toBe(5);
    } finally {
      await small.close();
    }
  });

  it("outside the grant's window nothing new is certified, and what was is still given out", async () => {
    const lot = await newLot(3);
    const devices = testDevices(2);
    await build(lot, devices);
    await certify(lot, devices.slice(0, 1));
    const later = { ...site.issuing, now: () => new Date("2099-06-01T00:00:00Z") };
    const results = await certify(lot, devices, later);
    expect(codes(results)).toEqual([null, "grant-expired"]);
    const earlier = { ...site.issuing, now: () => new Date("2025-06-01T00:00:00Z") };
    expect(codes(await certify(lot, devices, earlier))).toEqual([null, "grant-not-yet-valid"]);
  });

  it("a closed lot takes nothing new", async () => {
    const lot = await newLot(5);
    const devices = testDevices(3);
    await build(lot, devices.slice(0, 2));
    await certify(lot, devices.slice(0, 1));
    await site.db.query("UPDATE lot SET state = 'closed' WHERE id = $1", [lot]);
    expect(codes(await certify(lot, devices.slice(0, 2)))).toEqual([null, "lot-not-open"]);
    expect(codes(await build(lot, devices))).toEqual([null, null, "lot-not-open"]);
  });
});

describe("crashes", () => {
  const crash = (): never => {
    throw new Error("crash");
  };

  it.each(["afterIntents", "afterSigning", "afterStored"] as const)(
    "%s: nothing is out, and a retry gives each device one certificate",
    async (point) => {
      const lot = await newLot(5);
      const devices = testDevices(3);
      await build(lot, devices);
      const batch = await post(lot, "certify", [...devices.map(csrOf), testDevice("other-x").csr]);
      await expect(issueBatch({ ...site.issuing, seam: { [point]: crash } }, batch)).rejects.toThrow("crash");
      expect((await batchAnswers(site.db, batch)).state).toBe("pending");
      const tbs = await site.db.query(
        "SELECT device, tbs, certificate, device IN (SELECT device FROM released_issuance) AS released FROM issuance WHERE lot = $1",
        [lot],
      );
      expect(tbs.rows).toHaveLength(3);
      expect(tbs.rows.some((row: { released: boolean }) => row.released)).toBe(false);
      // Again a crash at the same point, then a clean run; and another batch with the same CSRs meanwhile.
      if (point !== "afterSigning") {
        await expect(issueBatch({ ...site.issuing, seam: { [point]: crash } }, batch)).rejects.toThrow("crash");
      }
      const [, other] = await Promise.all([issueBatch(site.issuing, batch), certify(lot, devices)]);
      const results = await answers(batch);
      expect(codes(results)).toEqual([null, null, null, "device-id-outside-namespace"]);
      expect(results.slice(0, 3).map((r) => toBase64(r.certificate!))).toEqual(
        other.map((r) => toBase64(r.certificate!)),
      );
      for (const row of tbs.rows as { device: string; tbs: Uint8Array }[]) {
        const result = results.find((r) => r.deviceId === row.device)!;
        expect(Buffer.from(parseCertificate(result.certificate!).tbs)).toEqual(Buffer.from(row.tbs));
      }
      const acts = (await ledger()).filter((act) => "lot" in act.fields && act.fields.lot === lot);
      expect(acts.filter((act) => act.type === "intent")).toHaveLength(1);
      expect(acts.filter((act) => act.type === "certified")).toHaveLength(3);
    },
  );

  it("an HSM that fails half-way leaves intents, and the next attempt signs the same bytes", async () => {
    const lot = await newLot(5);
    const devices = testDevices(4);
    await build(lot, devices);
    const batch = await post(lot, "certify", devices.map(csrOf));
    let calls = 0;
    const counted = (fail: number): IssuingContext => ({
      ...site.issuing,
      caKey: async () => signingBy((sign) => (++calls === fail ? crash() : sign())),
    });
    await expect(issueBatch(counted(3), batch)).rejects.toThrow("crash");
    expect(calls).toBe(3);
    // What was signed beside it is stored: only the failed one is signed again.
    await issueBatch(counted(0), batch);
    expect(calls).toBe(5);
    expect(codes(await answers(batch))).toEqual([null, null, null, null]);
  });

  it("an HSM that takes its time is waited for audibly", async () => {
    const lot = await newLot(1);
    const [device] = testDevices(1);
    await build(lot, [device!]);
    let beats = 0;
    let before = 0;
    const slow: IssuingContext = {
      ...site.issuing,
      caKey: async () =>
        signingBy(async (sign) => {
          before = beats;
          await sleep(2_500);
          expect(beats).toBeGreaterThan(before);
          return await sign();
        }),
    };
    await issueBatch(slow, await post(lot, "certify", [device!.csr]), () => void beats++);
  });

  it("what is signed while earlier signatures are being stored is stored too", async () => {
    const lot = await newLot(2);
    const devices = testDevices(2);
    await build(lot, devices);
    const batch = await post(lot, "certify", devices.map(csrOf));
    const now = performance.now.bind(performance);
    let passed = 0;
    const clock = vi.spyOn(performance, "now").mockImplementation(() => now() + passed);
    let calls = 0;
    const slow: IssuingContext = {
      ...site.issuing,
      caKey: async () =>
        signingBy(async (sign) => {
          if (++calls === 2) await sleep(300);
          else passed = 6_000;
          return await sign();
        }),
    };
    try {
      await issueBatch(slow, batch);
    } finally {
      clock.mockRestore();
    }
    expect(calls).toBe(2);
    expect(codes(await answers(batch))).toEqual([null, null]);
  });

  type Sign = CaKey["signCertificate"];
  const signingBy = (call: (sign: () => ReturnType<Sign>) => ReturnType<Sign>): CaKey =>
    new Proxy(site.caKey, {
      get: (target, name) =>
        name === "signCertificate"
          ? (linted: Parameters<Sign>[0]) => call(() => target.signCertificate(linted))
          : Reflect.get(target, name, target),
    });
});

describe("intake", () => {
  it("takes only a station's signature, over exactly these items", async () => {
    const lot = await newLot(5);
    const csrs = testDevices(2).map(csrOf);
    const dsse = await csrManifest(station, "built", lot, csrs);
    await expect(submitCsrs(site.intake, lot, dsse, csrs.slice(1))).rejects.toMatchObject({ code: "input-invalid" });
    await expect(submitCsrs(site.intake, lot, dsse, csrs.toReversed())).rejects.toMatchObject({
      code: "input-invalid",
    });
    const operator = await csrManifest(site.client("operator"), "built", lot, csrs);
    await expect(submitCsrs(site.intake, lot, operator, csrs)).rejects.toMatchObject({ code: "unauthorized" });
    const other = infrastructureClient(throwawayRoot({ commonName: "stranger" }), "technician-z", "station");
    const stranger = await csrManifest(other, "built", lot, csrs);
    await expect(submitCsrs(site.intake, lot, stranger, csrs)).rejects.toMatchObject({ code: "unauthorized" });
    const forged = await csrManifest({ ...station, signer: throwawaySigner() }, "built", lot, csrs);
    await expect(submitCsrs(site.intake, lot, forged, csrs)).rejects.toMatchObject({ code: "unauthorized" });
    await expect(submitCsrs(site.intake, await newLot(1), dsse, csrs)).rejects.toMatchObject({ code: "input-invalid" });
    await expect(
      submitCsrs(site.intake, "lot-none", await csrManifest(station, "built", "lot-none", csrs), csrs),
    ).rejects.toMatchObject({ code: "lot-not-found" });
    expect((await site.db.query("SELECT 1 FROM batch WHERE lot = $1", [lot])).rows).toHaveLength(0);
  });

  it("gives the first answer to the same manifest, and refuses another one under its id", async () => {
    const lot = await newLot(5);
    const csrs = testDevices(2).map(csrOf);
    const dsse = await csrManifest(station, "built", lot, csrs);
    const first = await submitCsrs(site.intake, lot, dsse, csrs);
    expect(await Promise.all([1, 2, 3].map(() => submitCsrs(site.intake, lot, dsse, csrs)))).toEqual([
      first,
      first,
      first,
    ]);
  });

  it("takes no more batches than may wait in a lot, and those again that it has", async () => {
    const intake = { ...site.intake, waitingBatches: 2 };
    const [lot, other] = [await newLot(5), await newLot(5)];
    const batches = await Promise.all(
      [lot, lot, lot, other].map(async (at) => {
        const csrs = testDevices(1).map(csrOf);
        return { at, csrs, dsse: await csrManifest(station, "built", at, csrs) };
      }),
    );
    const submit = async (n: number) => {
      const { at, csrs, dsse } = batches[n]!;
      return submitCsrs(intake, at, dsse, csrs);
    };
    const first = await submit(0);
    await submit(1);
    await expect(submit(2)).rejects.toMatchObject({ code: "queue-full", details: { retryAfterSeconds: 5 } });
    expect(await submit(0)).toEqual(first);
    await submit(3);
    await recordBuilt(site.issuing, first.id);
    await submit(2);
  });

  it("an expired station hands nothing in", async () => {
    const lot = await newLot(5);
    const csrs = testDevices(1).map(csrOf);
    const dsse = await csrManifest(station, "built", lot, csrs);
    const later = { ...site.intake, now: () => new Date("2060-01-01T00:00:00Z") };
    await expect(submitCsrs(later, lot, dsse, csrs)).rejects.toMatchObject({ code: "unauthorized" });
  });
});

const throwawaySigner = () => {
  const key = throwawayKey();
  return { spki: key.spki, algorithm: key.algorithm, sign: async (message: Uint8Array) => key.sign(message) };
};
