import { beforeAll, describe, expect, it } from "vitest";
import { auditWorld } from "../../../test/support/audit-world.ts";
import { PaperTpm } from "../../../test/support/paper-tpm.ts";
import { opensslVerify } from "../../../test/support/memory-log.ts";
import { pythonJudge } from "../../../test/support/python.ts";
import { sourceOf, testWorld, type TestWorld, type WorldOptions } from "../../../test/support/world.ts";
import { toBase64 } from "../../domain/bytes.ts";
import { sha256Hex } from "../../domain/hash.ts";
import { canonicalJson } from "../../domain/json.ts";
import { buildPassport } from "../passport-build.ts";
import { verifyPassport } from "../passport.ts";

type Attesting = NonNullable<WorldOptions["attestation"]>["of"];

describe("attestations in the ledgers", () => {
  let tpm: PaperTpm;
  beforeAll(async () => {
    tpm = await PaperTpm.create();
  });

  /** A lot that demands an attestation by this TPM's vendor, as its act and its settings say. */
  const lot = (of: Attesting, said: { root?: Uint8Array | undefined; settings?: boolean } = {}): WorldOptions => {
    const { root = tpm.root.der, settings = true } = said;
    const asked = { attestation: { kind: "tpm2", vendorRoots: [toBase64(tpm.root.der)] } };
    return {
      settings: { y: settings ? [canonicalJson(asked)] : [] },
      attestation: { demand: { kind: "tpm2", vendorRoots: [sha256Hex(root)] }, of },
    };
  };
  const attested: Attesting = (device) => tpm.attest(device);

  async function findings(world: TestWorld) {
    const report = await auditWorld(world);
    return report.findings.filter(({ severity }) => severity === "error").map(({ code, message }) => [code, message]);
  }
  /** Of the device's passport; a verifier that was written from docs/passport.md says the same. */
  async function verdict(world: TestWorld, device = 0) {
    const { root, policy } = world;
    const passport = canonicalJson(await buildPassport(world.devices[device]!, await sourceOf(world)));
    const ours = await verifyPassport(passport, root, policy, opensslVerify);
    const asked = { passport: toBase64(passport), root: toBase64(root.der), policy };
    const [theirs] = pythonJudge<typeof asked, { ok: boolean; why?: string }>("passport.py", [asked]);
    expect(theirs?.ok, theirs?.why).toBe(ours.ok);
    return ours;
  }

  it("hold, in the audit and in each device's passport", async () => {
    const world = await testWorld(2, lot(attested));
    expect(await findings(world)).toEqual([]);
    const verified = await verdict(world, 1);
    expect(verified).toMatchObject({ ok: true });
    expect(verified.ok && verified.history.map(({ type }) => type)).toContain("attested");
  });

  it("are missed where the lot asks for one", async () => {
    const world = await testWorld(
      2,
      lot(async (device) => (device.slot === 1 ? undefined : tpm.attest(device))),
    );
    expect(await findings(world)).toEqual([["attestation-missing", expect.any(String)]]);
    expect(await verdict(world, 0)).toMatchObject({ ok: false, code: "attestation-missing" });
    expect(await verdict(world, 1)).toMatchObject({ ok: true });
  });

  const invalid = (message: RegExp) => [["attestation-invalid", expect.stringMatching(message)]];

  it.each<[string, RegExp, Attesting]>([
    [
      "what the evidence doesn't say",
      /otherwise than its evidence/,
      async (device) => {
        const made = await tpm.attest(device);
        return { ...made, fields: { ...made.fields, firmware: "00".repeat(8) } };
      },
    ],
    [
      "evidence of another nonce",
      /attestation-replayed/,
      async (device) => {
        const { record, fields } = await tpm.attest(device);
        const evidence = canonicalJson({ ...record, nonce: "cd".repeat(32) });
        return { evidence, fields: { ...fields, evidence: sha256Hex(evidence) } };
      },
    ],
    [
      "evidence of another device",
      /about another device/,
      async (device) => tpm.attest({ ...device, id: "DEV-99999" }),
    ],
    [
      "evidence that can't be read",
      /can't be read/,
      async (device) => {
        const evidence = canonicalJson({ schema: 1 });
        return { evidence, fields: { ...(await tpm.attest(device)).fields, evidence: sha256Hex(evidence) } };
      },
    ],
    [
      "other evidence than lies beside it",
      /name its evidence/,
      async (device) => {
        const made = await tpm.attest(device);
        return { ...made, fields: { ...made.fields, evidence: "ab".repeat(32) } };
      },
    ],
    [
      "another vendor's TPM",
      /none of those that the lot names/,
      async (device) => (await PaperTpm.create()).attest(device),
    ],
  ])("don't hold with %s", async (_what, message, of) => {
    const found = await findings(await testWorld(1, lot(of)));
    expect(found.slice(0, 1)).toEqual(invalid(message));
  });

  it("are asked for by the settings and by the act alike", async () => {
    const other = await PaperTpm.create();
    const named = await testWorld(
      1,
      lot((device) => other.attest(device), { root: other.root.der }),
    );
    const found = await findings(named);
    expect(found).toContainEqual(["lot-invalid", expect.stringMatching(/which TPM vendors/)]);
    const nobodyAsked = await testWorld(1, { attestation: { of: attested } });
    expect(await verdict(nobodyAsked)).toMatchObject({ ok: false, code: "attestation-invalid" });
    expect((await findings(nobodyAsked)).slice(0, 1)).toEqual(invalid(/doesn't ask/));
    expect(await findings(await testWorld(1, lot(attested, { settings: false })))).toContainEqual([
      "lot-invalid",
      expect.stringMatching(/which TPM vendors/),
    ]);
  });
});
