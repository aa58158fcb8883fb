import { MockActivityEnvironment } from "@temporalio/testing";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { csrManifest } from "../apps/cli/station-key.ts";
import type { BatchRefusal } from "../contracts/lots.ts";
import { submitCsrs } from "../services/intake/submit.ts";
import { recordBuilt } from "../services/issuing/built.ts";
import type { IssuingContext } from "../services/issuing/context.ts";
import { UnderWay } from "../services/issuing/under-way.ts";
import { batchAnswers } from "../store/batches.ts";
import { lotSite, ownLot, testDevices, type LotSite, type TestDevice } from "../test/support/lot-site.ts";
import { issuingActivities } from "./issuing.ts";

let site: LotSite;
beforeAll(async () => {
  site = await lotSite();
});
afterAll(() => site.close());

let lots = 0;
/** Batches of one device each, built and to be certified. */
async function batches(count: number): Promise<{ device: TestDevice; batch: string }[]> {
  const lot = `lot-group-${++lots}`;
  const station = site.client("station");
  await ownLot(site, lot, count);
  const post = async (kind: "built" | "certify", { csr }: TestDevice): Promise<string> =>
    (await submitCsrs(site.intake, lot, await csrManifest(station, kind, lot, [csr]), [csr])).id;
  return await Promise.all(
    testDevices(count).map(async (device) => {
      await recordBuilt(site.issuing, await post("built", device));
      return { device, batch: await post("certify", device) };
    }),
  );
}

const attempt = (attempt: number, ids: readonly string[]) =>
  new MockActivityEnvironment({ attempt }).run(issuingActivities(site.issuing).issueBatches, { batches: [...ids] });

describe("a group of batches", () => {
  it("isn't held by one that fails for ever, nor are those of it refused", async () => {
    const group = await batches(3);
    const [good, refused, spoiled] = group.map(({ batch }) => batch) as [string, string, string];
    const ids = [good, refused, spoiled];
    await site.db.query("UPDATE batch SET items = '\\x00' WHERE id = $1", [spoiled]);
    // An intent of an earlier CA key, which nobody can sign any more.
    await expect(attempt(1, [refused])).resolves.toEqual([]);
    await site.db.query("UPDATE batch SET state = 'pending' WHERE id = $1", [refused]);
    await site.db.query("DELETE FROM batch_result WHERE batch = $1", [refused]);
    const { id } = group[1]!.device;
    await site.db.query("UPDATE issuance_intent SET issuer_key_id = 'earlier' WHERE device = $1", [id]);
    await site.db.query("DELETE FROM issuance_certificate WHERE device = $1", [id]);

    await expect(attempt(1, ids)).rejects.toMatchObject({ nonRetryable: false });
    expect((await batchAnswers(site.db, good)).answers[0]?.certificate).toBeInstanceOf(Uint8Array);
    expect((await batchAnswers(site.db, refused)).answers).toMatchObject([{ code: "grant-mismatch" }]);
    expect((await batchAnswers(site.db, spoiled)).state).toBe("pending");

    await expect(attempt(14, ids)).rejects.toMatchObject({ nonRetryable: false });
    const refusals = (await attempt(15, ids)) as BatchRefusal[];
    expect(refusals).toMatchObject([{ batch: spoiled, refused: { code: "internal" } }]);
    await new MockActivityEnvironment().run(issuingActivities(site.issuing).refuseBatch, refusals[0]!);
    expect((await batchAnswers(site.db, spoiled)).answers).toMatchObject([{ index: 0, code: "internal" }]);
  });

  it("waits for what is out of reach as long as it takes", async () => {
    const [only] = await batches(1);
    const { issueBatches } = issuingActivities({ ...site.issuing, inclusionTimeoutMs: 1 });
    const late = new MockActivityEnvironment({ attempt: 1000 }).run(issueBatches, { batches: [only!.batch] });
    await expect(late).rejects.toMatchObject({ type: "timeout", nonRetryable: false });
    await expect(attempt(1001, [only!.batch])).resolves.toEqual([]);
  });

  it("is joined by batches that come meanwhile: done, refused, or left to their workflow", async () => {
    const group = await batches(4);
    const [own, good, late, spoiled] = group.map(({ batch }) => batch) as [string, string, string, string];
    await site.db.query("UPDATE batch SET items = '\\x00' WHERE id = $1", [spoiled]);
    const { rows } = await site.db.query<{ lot: string }>("SELECT lot FROM batch WHERE id = $1", [own]);
    const { lot } = rows[0]!;
    const underWay = new UnderWay(3);
    const offered: Promise<boolean>[] = [];
    const context: IssuingContext = {
      ...site.issuing,
      underWay,
      seam: {
        afterIntents: () => {
          if (offered.length > 0) return;
          for (const id of [good, "batch-none", spoiled])
            offered.push(underWay.offer({ id, lot, kind: "certify", count: 1 })!);
        },
      },
    };
    const activity = issuingActivities(context).issueBatches;
    const run = new MockActivityEnvironment().run(activity, { lot, batches: [own] });
    await expect(run).resolves.toEqual([]);
    // One that isn't there is refused, and nobody waits for the answer.
    await expect(Promise.all(offered)).resolves.toEqual([true, true, false]);
    for (const id of [own, good]) {
      expect((await batchAnswers(site.db, id)).answers[0]?.certificate).toBeInstanceOf(Uint8Array);
    }
    expect((await batchAnswers(site.db, spoiled)).state).toBe("pending");
    expect(underWay.offer({ id: late, lot, kind: "certify", count: 1 })).toBeUndefined();
  });

  it("refuses a batch that isn't there without failing", async () => {
    const refusals = (await attempt(1, ["batch-none"])) as BatchRefusal[];
    expect(refusals).toMatchObject([{ batch: "batch-none", refused: { code: "not-found" } }]);
    await new MockActivityEnvironment().run(issuingActivities(site.issuing).refuseBatch, refusals[0]!);
  });
});
