import { beforeAll, describe, expect, it } from "vitest";
import { auditWorld } from "../../../test/support/audit-world.ts";
import { keep, rewritten } from "../../../test/support/forged-ledgers.ts";
import { issueCa, makeCsr, throwawayKey, type ThrowawayKey } from "../../../test/support/issuing.ts";
import { sha, testWorld, type TestParty, type TestWorld } from "../../../test/support/world.ts";
import { toBase64, toHex } from "../../domain/bytes.ts";
import type { ActFields, ActType } from "../../records/acts.ts";
import type { ActRef } from "../../records/primitives.ts";
import { rotationChallenge } from "../../records/rotation.ts";
import { parseEntry, type Act } from "../../records/statement.ts";
import { leafHash } from "../tree.ts";

describe("an audit of a CA's change of key", () => {
  let world: TestWorld;
  beforeAll(async () => {
    world = await testWorld(1);
  });

  function find<T extends ActType>(party: TestParty, type: T): Act<T> & { ref: ActRef } {
    for (const entry of party.log.entries) {
      const { act } = parseEntry(entry);
      if (act.type !== type) continue;
      return { ...(act as unknown as Act<T>), ref: { origin: party.origin, leafHash: toHex(leafHash(entry)) } };
    }
    throw new Error(`no ${type} act`);
  }
  async function signed<T extends ActType>(party: TestParty, ...args: Parameters<TestParty["signed"]>) {
    const ref = await party.signed<T>(...(args as Parameters<typeof party.signed<T>>));
    return { ref, entry: party.pending.pop()! };
  }

  interface Forged {
    readonly grant?: Partial<ActFields<"delegation">>;
    readonly rotated?: (honest: ActFields<"rotated">) => Partial<ActFields<"rotated">>;
    /** whose key each proof is by, and what it is for */
    readonly oldSigner?: ThrowawayKey;
    readonly newSigner?: ThrowawayKey;
    readonly challenge?: string;
    readonly leaveOut?: "rotated" | "acceptance";
    /** an intent that comes before, or after all, and whose grant it names */
    readonly before?: boolean;
    readonly after?: "old" | "new";
    readonly revoke?: boolean;
    /** of a grant for another new key before this one: what becomes of it */
    readonly lost?: "refused" | "accepted" | "accepted late" | "same key";
  }

  /** Technician-Z's new key, from the parent's grant to its acceptance. */
  async function codes(forged: Forged = {}): Promise<string[]> {
    const { y, z } = world;
    const first = find(y, "delegation");
    const accepted = find(z, "acceptance");
    const revoked = [];
    if (forged.revoke === true) {
      const { serial, der } = z.ca.certificate;
      const certificate = { act: first.ref.leafHash, serial, sha256: sha(der) };
      const fields = { target: "ca", certificate, effect: "final", reason: "keyCompromise" } as const;
      const more = { prev: [first.ref], grant: first.grant! };
      revoked.push((await signed<"revoked">(y, "revoked", first.subject[0]!, fields, more)).entry);
    }
    const key = throwawayKey();
    const at = new Date(Date.parse(first.time) - 3_000_000);
    const ca = issueCa(y.ca, { commonName: "Technician-Z CA" }, { pathLen: 0, key, at });
    const subject = { name: z.id, digest: { sha256: sha(key.spki) } };
    const of = { party: z.id, supersedes: first.ref, old: z.keyset.ca, new: toBase64(key.spki) };
    const challengePassword = forged.challenge ?? rotationChallenge(of);
    const proof = (by: ThrowawayKey): Uint8Array => makeCsr(by, { cn: "Technician-Z CA", challengePassword });
    const proofs = { old: proof(forged.oldSigner ?? z.ca.key), new: proof(forged.newSigner ?? key) };

    const accept = (granted: ActRef, { certificate }: typeof ca) => {
      const chain = [certificate, y.ca.certificate, world.root];
      const fields = { keyset: accepted.fields.keyset, chainSha256: sha(Buffer.concat(chain.map((c) => c.der))) };
      const named = { prev: [accepted.fields.keyset, granted], grant: granted };
      return signed<"acceptance">(z, "acceptance", subject, fields, named);
    };
    const given = [];
    const lostKey = forged.lost === "same key" ? key : throwawayKey();
    const lostCa = issueCa(y.ca, { commonName: "Technician-Z CA" }, { pathLen: 0, key: lostKey, at });
    if (forged.lost !== undefined) {
      const lost = { ca: toBase64(lostKey.spki), certificate: toBase64(lostCa.certificate.der) };
      const fields = { ...first.fields, revision: 2, supersedes: first.ref, ...lost };
      given.push(
        await signed<"delegation">(y, "delegation", subject, fields, { prev: [first.ref], grant: first.grant! }),
      );
    }
    const before = given[0]?.ref ?? first.ref;
    const grant = await signed<"delegation">(
      y,
      "delegation",
      subject,
      {
        ...first.fields,
        revision: given.length + 2,
        supersedes: before,
        ca: of.new,
        certificate: toBase64(ca.certificate.der),
        csrSha256: sha(proofs.new),
        nonceSha256: sha(challengePassword),
        ...forged.grant,
      },
      { prev: [before], grant: first.grant! },
    );
    const more: Uint8Array[] = [];
    if (forged.lost === "accepted") more.push((await accept(before, lostCa)).entry);
    const intend = async (under: ActRef): Promise<void> => {
      const { fields, subject: lot, prev } = find(z, "intent");
      more.push(z.statement("intent", lot[0]!, fields, { prev, grant: under }));
    };
    if (forged.before === true) await intend(first.ref);
    const honest: ActFields<"rotated"> = {
      role: "ca",
      old: { spki: of.old, proof: toBase64(proofs.old) },
      new: { spki: of.new, proof: toBase64(proofs.new) },
      grant: grant.ref,
      effectiveSize: z.log.entries.length + more.length,
    };
    const rotated = await signed<"rotated">(
      z,
      "rotated",
      subject,
      { ...honest, ...forged.rotated?.(honest) },
      { prev: [accepted.ref, grant.ref], grant: first.ref },
    );
    if (forged.leaveOut !== "rotated") more.push(rotated.entry);
    if (forged.leaveOut !== "acceptance") more.push((await accept(grant.ref, ca)).entry);
    if (forged.lost === "accepted late") more.push((await accept(before, lostCa)).entry);
    if (forged.after !== undefined) await intend(forged.after === "old" ? first.ref : grant.ref);
    const logs = new Map([
      [y.id, await rewritten(y, keep, [...revoked, ...given.map(({ entry }) => entry), grant.entry])],
      [z.id, await rewritten(z, keep, more)],
    ]);
    const report = await auditWorld(world, logs);
    return [...new Set(report.findings.filter((f) => f.severity === "error").map((f) => f.code))];
  }

  it("finds nothing in an honest one, with intents under each key in its time", async () => {
    expect(await codes()).toEqual([]);
    expect(await codes({ before: true, after: "new" })).toEqual([]);
  });

  it("finds nothing in a second new key whose predecessor was never accepted, and all else in a row of two", async () => {
    expect(await codes({ lost: "refused" })).toEqual([]);
    expect(await codes({ lost: "refused", before: true, after: "new" })).toEqual([]);
    expect(await codes({ lost: "refused", after: "old" })).toEqual(["rotation-invalid"]);
    expect(await codes({ lost: "accepted" })).toContain("rotation-invalid");
    expect(await codes({ lost: "accepted late" })).toContain("grant-exceeded");
    expect(await codes({ lost: "same key" })).not.toEqual([]);
    expect(await codes({ lost: "refused", grant: { quota: 5001 } })).toContain("grant-exceeded");
    const beside = find(world.y, "delegation").ref;
    expect(await codes({ lost: "refused", grant: { supersedes: beside, revision: 2 } })).toContain("grant-exceeded");
  });

  it("finds what the other key proved, or neither, or for another change", async () => {
    const stranger = throwawayKey();
    expect(await codes({ oldSigner: stranger })).toContain("rotation-invalid");
    expect(await codes({ newSigner: stranger })).toContain("rotation-invalid");
    const elsewhere = { party: "factory-y", supersedes: find(world.y, "delegation").ref };
    const other = rotationChallenge({ ...elsewhere, old: world.z.keyset.ca, new: toBase64(stranger.spki) });
    expect(await codes({ challenge: other })).toContain("rotation-invalid");
    expect(await codes({ rotated: ({ new: to, old }) => ({ new: { ...to, proof: old.proof } }) })).toContain(
      "rotation-invalid",
    );
    expect(await codes({ rotated: ({ old }) => ({ new: old }) })).toContain("rotation-invalid");
    const junk = toBase64(Uint8Array.of(0x30, 0));
    expect(await codes({ rotated: ({ old }) => ({ old: { ...old, proof: junk } }) })).toContain("rotation-invalid");
  });

  it("finds a key that was in neither keyset nor change", async () => {
    expect(await codes({ leaveOut: "rotated" })).toContain("rotation-invalid");
    const { spki } = throwawayKey();
    expect(await codes({ rotated: ({ new: to }) => ({ new: { ...to, spki: toBase64(spki) } }) })).toContain(
      "rotation-invalid",
    );
    expect(await codes({ grant: { ca: toBase64(spki) } })).toContain("certificate-invalid");
  });

  it("finds what is intended under the old key after the effective size", async () => {
    expect(await codes({ after: "old" })).toEqual(["rotation-invalid"]);
    const earlier = await codes({
      before: true,
      rotated: ({ effectiveSize }) => ({ effectiveSize: effectiveSize - 1 }),
    });
    expect(earlier).toContain("rotation-invalid");
    // Also when the new key's certificate isn't accepted yet.
    expect(await codes({ leaveOut: "acceptance", after: "old" })).toContain("rotation-invalid");
    expect(await codes({ leaveOut: "acceptance", after: "new" })).toContain("act-invalid");
    expect(await codes({ rotated: ({ effectiveSize }) => ({ effectiveSize: effectiveSize + 1 }) })).toContain(
      "rotation-invalid",
    );
  });

  it("finds that a revoked party was given a certificate for a new key, and terms that grew with it", async () => {
    expect(await codes({ revoke: true })).toContain("grant-exceeded");
    expect(await codes({ grant: { quota: 5001 } })).toContain("grant-exceeded");
    expect(await codes({ grant: { idPrefixes: ["DEV-", "OTHER-"] } })).toContain("grant-exceeded");
  });
});
