import { randomBytes } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { hubRegistrationActivities } from "../../activities/hub-registration.ts";
import { csrManifest } from "../../apps/cli/station-key.ts";
import { toBase64 } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { keyId } from "../../lib/pki/spki.ts";
import type { Identity } from "../parties/identity.ts";
import { findHubRegistration, requestHubRegistration } from "../../store/authority.ts";
import { inTransaction } from "../../store/db.ts";
import { getHandoff } from "../../store/handoffs.ts";
import { pinPeer } from "../../store/parties.ts";
import { softhsmDir } from "../../test/support/index.ts";
import { issue, throwawayKey, throwawayRoot } from "../../test/support/issuing.ts";
import { lotSite, ownLot, testDevices, type LotSite } from "../../test/support/lot-site.ts";
import { claimRelease, recordRelease } from "../custody/release.ts";
import { submitCsrs } from "../intake/submit.ts";
import { recordBuilt } from "../issuing/built.ts";
import { indexOfLeaf } from "../../store/cosignatures.ts";

/** What leaves a site leaves when others have cosigned it. */

const root = throwawayRoot({ commonName: "Root" });
let y: LotSite;
/** Sizes that were asked for; what answers them. */
const asked: number[] = [];
let answer: (size: number) => Promise<number> = async (size) => size;
const cosigned = async (size: number): Promise<number> => {
  asked.push(size);
  return answer(size);
};
const missing = async (): Promise<never> => {
  throw new CountersignError("witnesses-missing", "waiting for a quorum of witnesses: company-x is away");
};

beforeAll(async () => {
  const { module } = softhsmDir();
  y = await lotSite({ party: "factory-y", root, module });
  const contact = {
    party: "technician-z",
    gateway: "https://127.0.0.1:1",
    publicUrl: "http://127.0.0.1:1",
    tlsCa: "",
    act: toBase64(y.act.spki),
    origin: "technician-z.example/log",
    vkey: "x+00000000+AQ==",
  };
  await inTransaction(y.db, (tx) =>
    pinPeer(tx, {
      party: "technician-z",
      direction: "child",
      contact,
      actSpki: y.act.spki,
      actKeyId: keyId(y.act.spki),
    }),
  );
}, 60_000);
afterAll(() => y?.close());

const queued = async (): Promise<number> =>
  (await y.db.query<{ n: number }>("SELECT count(*)::int AS n FROM outbox WHERE type = 'handoff-release'")).rows[0]!.n;

describe("a release", () => {
  it("is signed, waits for the witnesses and says so, and leaves once when they have cosigned it", async () => {
    await ownLot(y, "lot-w", 10, "technician-z");
    const csrs = testDevices(2, "dev-w-").map((device) => device.csr);
    const batch = await submitCsrs(
      y.intake,
      "lot-w",
      await csrManifest(y.client("station"), "built", "lot-w", csrs),
      csrs,
    );
    await recordBuilt(y.issuing, batch.id);
    const context = { ...y.custody, cosigned };
    await claimRelease(context, { id: "lot-w.h1", lot: "lot-w", to: "technician-z" });

    answer = missing;
    await expect(recordRelease(context, "lot-w.h1")).rejects.toMatchObject({
      code: "witnesses-missing",
      kind: "unavailable",
    });
    expect(await getHandoff(y.db, "lot-w.h1")).toMatchObject({
      state: "releasing",
      errorCode: "witnesses-missing",
      errorMessage: expect.stringMatching(/company-x is away/) as string,
    });
    expect(await queued()).toBe(0);
    const waitedFor = asked.at(-1)!;

    // Attempts side by side, as after a worker's restart: one release, one envelope.
    answer = async (size) => size;
    expect(await Promise.all([1, 2, 3].map(() => recordRelease(context, "lot-w.h1")))).toEqual(
      Array.from({ length: 3 }, () => "released"),
    );
    const handoff = await getHandoff(y.db, "lot-w.h1");
    expect(handoff).toMatchObject({ state: "released", errorCode: null });
    expect(await queued()).toBe(1);
    const index = await indexOfLeaf(y.db, Buffer.from(handoff.releaseLeaf!, "hex"));
    expect(new Set(asked)).toEqual(new Set([index! + 1]));
    expect(waitedFor).toBe(index! + 1);
    expect(await recordRelease(context, "lot-w.h1")).toBe("released");
    expect(await queued()).toBe(1);
  });
});

describe("a hub registration", () => {
  it("shows the hub nothing before the ceremony's act is cosigned", async () => {
    const { db, acts } = y;
    const ca = root.certificate;
    const verification = issue(root, "hub-verification", { commonName: "C0DE" }, throwawayKey().spki);
    const act = (await db.query<{ leaf_hash: Uint8Array }>("SELECT leaf_hash FROM ledger_leaf LIMIT 1")).rows[0]!;
    await db.query("INSERT INTO ca_certificate (key_id, role, certificate) VALUES ($1, 'root', $2)", [
      keyId(ca.spki),
      ca.der,
    ]);
    await db.query(
      `INSERT INTO ca_intent (id, kind, profile, issuer_key_id, request, tbs, result)
       VALUES ('hub-verification/root', 'hub-verification', 'hub-verification', $1, '{}', '', $2)`,
      [keyId(ca.spki), verification.der],
    );
    await db.query(
      `INSERT INTO ceremony (id, document, sha256, state, act_origin, act_leaf_hash) VALUES ('c', '', $1, 'done', 'o', $2)`,
      [randomBytes(32).toString("hex"), Buffer.from(act.leaf_hash).toString("hex")],
    );
    await requestHubRegistration(db, "root");
    // Nothing answers there: what gets so far is told apart by it.
    const hub = { url: "https://127.0.0.1:9", ca: "", cert: "", key: "" };
    const identity = { party: y.party, origin: y.origin, act: y.act } as unknown as Identity;
    const activities = hubRegistrationActivities({ db, identity, acts, hub, cosigned });

    answer = missing;
    await expect(activities.proveCaToHub({ name: "root" })).rejects.toMatchObject({
      type: "witnesses-missing",
      nonRetryable: false,
    });
    expect(await findHubRegistration(db, "root")).toMatchObject({ state: "requested", errorCode: "witnesses-missing" });
    answer = async (size) => size;
    await expect(activities.proveCaToHub({ name: "root" })).rejects.not.toMatchObject({ type: "witnesses-missing" });
  });
});
