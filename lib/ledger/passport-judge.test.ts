import { beforeAll, describe, expect, it } from "vitest";
import { forgePassport } from "../../test/support/forged-passport.ts";
import { enlarge, witnessedPolicy } from "../../test/support/large-passport.ts";
import { opensslVerify } from "../../test/support/memory-log.ts";
import { pythonJudge } from "../../test/support/python.ts";
import { sha, sourceOf, testWorld, type TestWorld } from "../../test/support/world.ts";
import { toBase64 } from "../domain/bytes.ts";
import type { ActType } from "../records/acts.ts";
import type { Policy } from "../records/policy.ts";
import type { Act, AnyAct } from "../records/statement.ts";
import { gatherEvidence } from "./passport-build.ts";
import type { PassportEvidence } from "./passport-evidence.ts";
import { formatPassport, packPassport } from "./passport-pack.ts";
import { verifyPassport } from "./passport.ts";

/** Our verifier and the one that was written from docs/passport.md, over the same passports, good and forged. */

interface Answer {
  readonly ok: boolean;
  readonly why?: string;
  /** where it failed: the act's place in the passport */
  readonly act?: number | null;
}

/** One field of one type's acts otherwise. */
function change<T extends ActType>(type: T, more: (act: Act<T>) => Partial<Omit<Act<T>, "type">>) {
  return (act: AnyAct): AnyAct => (act.type === type ? ({ ...act, ...more(act as unknown as Act<T>) } as AnyAct) : act);
}
const fields = <T extends ActType>(type: T, more: (f: Act<T>["fields"]) => Partial<Act<T>["fields"]>) =>
  change(type, (act) => ({ fields: { ...act.fields, ...more(act.fields) } }) as Partial<Omit<Act<T>, "type">>);
const of = (party: string, edit: (act: AnyAct) => AnyAct) => (act: AnyAct) => (act.party === party ? edit(act) : act);

const OTHER = "ab".repeat(32);
const LONG_AGO = "2020-01-01T00:00:00.000Z";

const FORGERIES: Record<string, (act: AnyAct) => AnyAct | undefined> = {
  "another slot": fields("certified", ({ slot }) => ({ slot: slot + 1 })),
  "a renewal of nothing": fields("certified", () => ({ purpose: "renewal" as const })),
  "another profile": fields("certified", ({ profile }) => ({ profile: { ...profile, sha256: OTHER } })),
  "no grant": change("certified", () => ({ grant: undefined }) as never),
  "no previous act": change("certified", () => ({ prev: [] })),
  "no place in the handoff's list": change("certified", ({ prev }) => ({
    prev: prev.map(({ origin, leafHash }) => ({ origin, leafHash })),
  })),
  "certified before its CA was": change("certified", () => ({ time: LONG_AGO })),
  "bytes that weren't intended": fields("certified", ({ intent }) => ({
    intent: { ...intent, index: intent.index + 1 },
  })),
  "an enrolment of another request": fields("certified", () => ({
    intake: { kind: "est" as const, csrSha256: OTHER, clientCertificateSha256: OTHER },
  })),
  "another technician": fields("installed", () => ({ technician: OTHER })),
  "another place": fields("installed", () => ({ place: OTHER })),
  "another key": change("installed", ({ subject: [about] }) => ({
    subject: [{ name: about!.name, digest: { sha256: OTHER } }],
  })),
  "another device": change("installed", ({ subject: [about] }) => ({ subject: [{ ...about!, name: "DEV-00002" }] })),
  "not after the injection": change("installed", () => ({ prev: [] })),
  "another layout": fields("injected", () => ({ layoutSha256: OTHER })),
  "another chain in the image": fields("injected", ({ readBack }) => ({ readBack: { ...readBack, sha256: OTHER } })),
  "another slot's receipt": fields("injected", ({ receipt }) => ({ receipt: { ...receipt, slot: receipt.slot + 1 } })),
  "received by somebody else": fields("handoff-received", () => ({ to: "company-x" })),
  "another count": fields("handoff-received", ({ count }) => ({ count: count + 1 })),
  "said not to have arrived": fields("handoff-received", () => ({ discrepancies: ["DEV-00001: missing"] })),
  "another handoff's subject": change("handoff-received", ({ subject: [about] }) => ({
    subject: [{ ...about!, name: "HANDOFF-2" }],
  })),
  "released by somebody else": fields("handoff-released", () => ({ from: "technician-z" })),
  "other terms": of(
    "technician-z",
    fields("lot-opened", ({ slots }) => ({ slots: slots + 1 })),
  ),
  "another builder": of(
    "technician-z",
    fields("lot-opened", () => ({ builder: "technician-z" })),
  ),
  "another chain accepted": fields("acceptance", () => ({ chainSha256: OTHER })),
  "more than its own quota": of(
    "factory-y",
    fields("delegation", () => ({ quota: 100_000 })),
  ),
  "outside its own namespace": of(
    "factory-y",
    fields("delegation", () => ({ idPrefixes: ["DE"] })),
  ),
  "delegating on as deep as it may itself": of(
    "factory-y",
    fields("delegation", () => ({ depth: 1, pathLen: 1 })),
  ),
  "beyond its own window": of(
    "factory-y",
    fields("delegation", () => ({ notAfter: "2100-01-01T00:00:00.000Z" })),
  ),
  "another party's keys": of(
    "technician-z",
    fields("keyset", ({ keyset }) => ({ keyset: { ...keyset, party: "factory-y" } })),
  ),
  "keys without their proof": of(
    "technician-z",
    fields("keyset", ({ keyset }) => ({
      keyset: { ...keyset, proofs: { ...keyset.proofs, witness: { signature: toBase64(new Uint8Array(64)) } } },
    })),
  ),
  "an intent for another lot": fields("intent", () => ({ lot: "LOT-2" })),
  "an intent for another batch": fields("intent", () => ({ manifest: OTHER })),
  "a slot beyond the lot": fields("built", () => ({ slot: 1_000_000 })),
  "another request": fields("built", () => ({ csrSha256: OTHER })),
  "another ledger": change("installed", () => ({ origin: "factory-y.example/log" })),
  "another party": change("installed", () => ({ party: "factory-y" })),
  "a ceremony of another document's keys": fields("ceremony", ({ keyset }) => ({
    keyset: { ...keyset, proofs: { ...keyset.proofs, ca: { kind: "self-signed" as const, sha256: OTHER } } },
  })),
};

describe("a second verifier of passports", () => {
  let world: TestWorld;
  let evidence: PassportEvidence;
  let other: PassportEvidence;
  beforeAll(async () => {
    world = await testWorld(20);
    const source = await sourceOf(world);
    evidence = await gatherEvidence("DEV-00001", source);
    other = await gatherEvidence("DEV-00020", source);
  });

  const fileOf = (one: PassportEvidence) => formatPassport(packPassport(one, world.root.der));
  async function both(files: readonly Uint8Array[], policy: Policy = world.policy) {
    const root = toBase64(world.root.der);
    const asked = files.map((file) => ({ passport: toBase64(file), root, policy }));
    const theirs = pythonJudge<(typeof asked)[number], Answer>("passport.py", asked);
    const ours = [];
    for (const file of files) ours.push(await verifyPassport(file, world.root, policy, opensslVerify));
    return { ours, theirs };
  }

  it("says yes where ours does", async () => {
    const opened = { ...evidence, openings: [world.place] };
    const files = [evidence, other, opened, await forgePassport(evidence, world, (act) => act)].map(fileOf);
    const { ours, theirs } = await both(files);
    expect(ours.map(({ ok }) => ok)).toEqual([true, true, true, true]);
    expect(theirs).toEqual(ours.map((answer) => ({ ok: true, device: answer.ok && answer.deviceId, acts: 16 })));
    const million = [fileOf(await enlarge(evidence, world, 1_000_000))];
    const large = await both(million, witnessedPolicy(world));
    expect([large.ours[0]?.ok, large.theirs[0]?.ok]).toEqual([true, true]);
    expect((await both(million)).theirs[0]?.ok).toBe(false);
  });

  it("says no to every forgery that its party signed, and at the same act", async () => {
    const forged = await Promise.all(
      Object.values(FORGERIES).map(async (edit) => fileOf(await forgePassport(evidence, world, edit))),
    );
    const { ours, theirs } = await both(forged);
    for (const [i, name] of Object.keys(FORGERIES).entries()) {
      const our = ours[i]!;
      const their = theirs[i]!;
      expect([our.ok, their.ok], `${name}: ${their.why}`).toEqual([false, false]);
      if (our.ok) continue;
      const acts = (JSON.parse(new TextDecoder().decode(forged[i])) as { acts: { log: number; index: number }[] }).acts;
      const at = their.act == null ? undefined : acts[their.act];
      expect(our.at?.index, `${name}: ${our.message} / ${their.why}`).toBe(at?.index);
    }
  });

  it("says no to what is left out, swapped or belongs to another device", async () => {
    const acts = evidence.acts;
    const variants: PassportEvidence[] = [
      ...acts.slice(0, -1).map((_, i) => ({ ...evidence, acts: acts.toSpliced(i, 1) })),
      ...acts.slice(1).map((act, i) => ({ ...evidence, acts: acts.with(i, act).with(i + 1, acts[i]!) })),
      ...evidence.manifests.map((_, i) => ({ ...evidence, manifests: evidence.manifests.toSpliced(i, 1) })),
      { ...evidence, device: other.device },
      { ...evidence, chains: other.chains },
      { ...evidence, policySha256: sha("another") },
      { ...evidence, openings: [{ ...world.place, value: "Hall 4" }] },
      { ...evidence, logs: evidence.logs.map((log) => ({ ...log, before: log.checkpoint })) },
    ];
    const { ours, theirs } = await both(variants.map(fileOf));
    for (const [i, our] of ours.entries()) {
      // Two neighbours of different ledgers that don't name each other may stand either way.
      expect(theirs[i]?.ok, `variant ${i}: ${JSON.stringify(our)} / ${theirs[i]?.why}`).toBe(our.ok);
    }
    expect(ours.filter(({ ok }) => !ok).length).toBeGreaterThan(25);
  });
});
