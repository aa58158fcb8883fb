import { beforeEach, describe, expect, it } from "vitest";
import { auditWorld } from "../../../test/support/audit-world.ts";
import { rewritten } from "../../../test/support/forged-ledgers.ts";
import { MemoryLog, opensslVerify } from "../../../test/support/memory-log.ts";
import { pythonJudge } from "../../../test/support/python.ts";
import { sha, sourceOf, testWorld, type TestParty, type TestWorld } from "../../../test/support/world.ts";
import { fromBase64, toBase64, toHex } from "../../domain/bytes.ts";
import { parseCertificate } from "../../pki/certificate.ts";
import type { ActFields } from "../../records/acts.ts";
import type { ActRef } from "../../records/primitives.ts";
import { parseEntry, type Act, type AnyAct } from "../../records/statement.ts";
import { buildPassport } from "../passport-build.ts";
import { formatPassport } from "../passport-pack.ts";
import { verifyPassport } from "../passport.ts";
import { leafHash } from "../tree.ts";

type Fields = ActFields<"revoked">;
type What = { effect: "final"; reason: "keyCompromise" } | { effect: "hold" } | { effect: "lift" };
const FINAL: What = { effect: "final", reason: "keyCompromise" };

describe("a certificate that its issuer takes back", () => {
  let world: TestWorld;
  beforeEach(async () => {
    world = await testWorld(2);
  });

  function find(party: TestParty, wanted: (act: AnyAct) => boolean): AnyAct & { ref: ActRef } {
    for (const entry of party.log.entries) {
      const { act } = parseEntry(entry);
      if (wanted(act)) return { ...act, ref: { origin: party.origin, leafHash: toHex(leafHash(entry)) } };
    }
    throw new Error("no such act");
  }
  const certifiedOf = (id: string) => find(world.z, (act) => act.type === "certified" && act.subject[0]!.name === id);
  const delegationTo = (from: TestParty, to: TestParty) =>
    find(from, (act) => act.type === "delegation" && act.fields.child === to.id);

  /** Signed by the party, in its ledger. */
  async function revoke(
    party: TestParty,
    held: AnyAct & { ref: ActRef },
    what: What,
    change: { prev?: ActRef; fields?: Partial<Fields>; name?: string; time?: string } = {},
  ): Promise<ActRef> {
    const target = held.type === "delegation" ? "ca" : "device";
    const shown = (held as unknown as Act<"certified" | "delegation">).fields.certificate;
    const { der, serial, spki } = parseCertificate(fromBase64(shown));
    const grant = party.log.entries
      .map((entry) => parseEntry(entry).act)
      .find((act) => act.type === "acceptance")?.grant;
    const ref = await party.signed(
      "revoked",
      { name: change.name ?? held.subject[0]!.name, digest: { sha256: sha(spki) } },
      {
        target,
        certificate: { act: held.ref.leafHash, serial, sha256: sha(der) },
        ...what,
        ...change.fields,
      } as Fields,
      {
        prev: [change.prev ?? held.ref],
        ...(grant === undefined ? {} : { grant }),
        ...(change.time === undefined ? {} : { time: change.time }),
      },
    );
    await party.publish();
    return ref;
  }

  async function errors(instead = new Map<string, MemoryLog>()): Promise<string[]> {
    const report = await auditWorld(world, instead);
    return report.findings.map(({ code, message }) => `${code}: ${message}`);
  }
  /** Ours; the second verifier has to agree. */
  async function verdict(id: string) {
    const passport = formatPassport(await buildPassport(id, await sourceOf(world)));
    const { root, policy } = world;
    const ours = await verifyPassport(passport, root, policy, opensslVerify);
    const asked = { passport: toBase64(passport), root: toBase64(root.der), policy };
    const [theirs] = pythonJudge<typeof asked, { ok: boolean; why?: string }>("passport.py", [asked]);
    expect(theirs?.ok, theirs?.why).toBe(ours.ok);
    return ours;
  }

  it("is no longer vouched for by its passport, and its siblings are", async () => {
    const [first, second] = world.devices as [string, string];
    const before = formatPassport(await buildPassport(first, await sourceOf(world)));
    await revoke(world.z, certifiedOf(first), FINAL);
    expect(await errors()).toEqual([]);
    expect(await verdict(first)).toMatchObject({
      ok: false,
      code: "revoked",
      at: { origin: world.z.origin, index: world.z.log.entries.length - 1 },
    });
    expect(await verdict(second)).toMatchObject({ ok: true });
    // What was made before proves what was true then.
    expect(await verifyPassport(before, world.root, world.policy, opensslVerify)).toMatchObject({ ok: true });
  });

  it("is vouched for again when a hold is lifted, and never when it was for good", async () => {
    const [first] = world.devices as [string];
    const held = certifiedOf(first);
    const hold = await revoke(world.z, held, { effect: "hold" });
    expect(await verdict(first)).toMatchObject({ ok: false, code: "revoked" });
    const lift = await revoke(world.z, held, { effect: "lift" }, { prev: hold });
    expect(await verdict(first)).toMatchObject({ ok: true });
    const final = await revoke(world.z, held, FINAL, { prev: lift });
    expect(await errors()).toEqual([]);
    expect(await verdict(first)).toMatchObject({ ok: false, code: "revoked" });
    await revoke(world.z, held, { effect: "lift" }, { prev: final });
    expect(await errors()).toEqual([expect.stringContaining("revoked for good before")]);
  });

  it("takes every device of a CA with it", async () => {
    await revoke(world.y, delegationTo(world.y, world.z), FINAL);
    expect(await errors()).toEqual([]);
    for (const id of world.devices) {
      expect(await verdict(id)).toMatchObject({ ok: false, code: "revoked", at: { origin: world.y.origin } });
    }
  });

  it("can't be a CA's that goes on certifying, nor a device's that is installed later", async () => {
    await revoke(world.y, delegationTo(world.y, world.z), FINAL);
    const later = (act: AnyAct): AnyAct => {
      if (!["certified", "injected", "installed"].includes(act.type)) return act;
      return { ...act, time: new Date(Date.parse(act.time) + 7_200_000).toISOString() };
    };
    const log = await rewritten(world.z, later);
    expect(await errors(new Map([[world.z.id, log]]))).toEqual([
      expect.stringMatching(/^revoked: .*before it certified/),
    ]);

    world = await testWorld(1);
    await revoke(world.z, certifiedOf(world.devices[0]!), FINAL);
    const [installed] = world.z.log.entries.slice(-2);
    const { entries } = world.z.log;
    const early = new MemoryLog(world.z.origin, world.z.log.signer);
    await early.append([...entries.slice(0, -2), entries.at(-1)!, installed!]);
    expect(await errors(new Map([[world.z.id, early]]))).toEqual([expect.stringMatching(/^revoked: installed/)]);
  });

  it("is one that the act names, of this ledger, under its own subject", async () => {
    const [first, second] = world.devices as [string, string];
    const forgeries = [
      () => revoke(world.z, certifiedOf(first), FINAL, { name: second }),
      () => revoke(world.y, certifiedOf(first), FINAL),
      () => revoke(world.z, certifiedOf(first), FINAL, { prev: certifiedOf(second).ref }),
      () => {
        const { certificate } = (certifiedOf(first) as unknown as Act<"certified">).fields;
        const { der } = parseCertificate(fromBase64(certificate));
        const other = { act: certifiedOf(first).ref.leafHash, serial: "01", sha256: sha(der) };
        return revoke(world.z, certifiedOf(first), FINAL, { fields: { certificate: other } });
      },
      () => revoke(world.z, certifiedOf(first), { effect: "lift" }),
    ];
    for (const forge of forgeries) {
      world = await testWorld(2);
      await forge();
      expect(await errors()).toEqual([expect.stringContaining("revocation-invalid")]);
    }
  });
});
