import { beforeAll, describe, expect, it } from "vitest";
import { auditWorld } from "../../../test/support/audit-world.ts";
import { fieldsOf, keep, only, rewritten, upToCertified, type Edit } from "../../../test/support/forged-ledgers.ts";
import { MemoryLog, opensslVerify, testKey } from "../../../test/support/memory-log.ts";
import { issueCa } from "../../../test/support/issuing.ts";
import { sha, testWorld, type TestParty, type TestWorld } from "../../../test/support/world.ts";
import { fromHex, fromUtf8, toBase64, toHex, utf8 } from "../../domain/bytes.ts";
import { algorithmIdentifier } from "../../pki/algorithms.ts";
import { parseCertificate, type Certificate } from "../../pki/certificate.ts";
import { bitString, sequence } from "../../pki/der-write.ts";
import { issuerFromCertificate } from "../../pki/issuer.ts";
import { profileNamed, type ProfileName } from "../../pki/profiles.ts";
import { buildTbs, type TbsParams } from "../../pki/tbs.ts";
import type { ActFields, ActType } from "../../records/acts.ts";
import { keysetProofMessage } from "../../records/keyset.ts";
import { csrItem, installItem } from "../../records/manifest.ts";
import { buildStatement, parseEntry, type Act, type AnyAct } from "../../records/statement.ts";
import { verifyPassport } from "../passport.ts";
import { formatPolicy } from "../policy.ts";
import { leafHash } from "../tree.ts";
import { auditLedgers } from "./ledgers.ts";

describe("an audit of forged ledgers", () => {
  let world: TestWorld;
  beforeAll(async () => {
    world = await testWorld(1);
  });

  const audit = (party?: TestParty, log?: MemoryLog) =>
    auditWorld(world, new Map(party && log ? [[party.id, log]] : []));
  async function codes(party: TestParty, edit: Edit, more?: readonly Uint8Array[]) {
    const report = await audit(party, await rewritten(party, edit, more));
    return [...new Set(report.findings.filter((f) => f.severity === "error").map((f) => f.code))];
  }
  function find<T extends ActType>(party: TestParty, type: T): Act<T> & { leafHash: string } {
    for (const entry of party.log.entries) {
      const { act } = parseEntry(entry);
      if (act.type === type) return { ...(act as unknown as Act<T>), leafHash: toHex(leafHash(entry)) };
    }
    throw new Error(`no ${type} act`);
  }
  /** Recorded, signed and not yet in the log. */
  async function signed<T extends ActType>(party: TestParty, ...args: Parameters<TestParty["signed"]>) {
    const ref = await party.signed<T>(...(args as Parameters<typeof party.signed<T>>));
    return { ref, entry: party.pending.pop()! };
  }
  const grantOf = (party: TestParty) => find(party, "acceptance").grant!;

  it("finds nothing where nothing is forged, rewritten or not", async () => {
    expect((await audit()).findings).toEqual([]);
    expect(await codes(world.z, keep)).toEqual([]);
    expect(await codes(world.y, keep)).toEqual([]);
  });

  it("takes no policy in which two parties share a log, by its key or by its name", async () => {
    const { y, z, policy, root } = world;
    const other = new MemoryLog(y.origin, testKey("ed25519"));
    const renamed = new MemoryLog("elsewhere.example/log", y.log.signer);
    for (const shared of [y.log, other, renamed]) {
      const logs = { ...policy.logs, [z.id]: formatPolicy(shared.key) };
      const source = { root, policy: { ...policy, logs }, verify: opensslVerify, fetch: async () => undefined };
      await expect(auditLedgers(source)).rejects.toMatchObject({ code: "policy-invalid" });
      await expect(verifyPassport(utf8("{}"), root, source.policy, opensslVerify)).rejects.toMatchObject({
        code: "policy-invalid",
      });
    }
  });

  /** Any bytes under the technician's CA, as its own program would never sign them. */
  function certificateOf(name: ProfileName, more: Partial<TbsParams> = {}): Certificate {
    const { ca } = world.z;
    const before = parseCertificate(Buffer.from(find(world.z, "certified").fields.certificate, "base64"));
    const { notBefore, notAfter, spki } = before;
    const issuer = issuerFromCertificate(ca.certificate);
    const serial = fromHex(sha(name)).slice(0, 16);
    serial[0]! &= 0x7f;
    serial[0]! |= 0x40;
    const subject = { commonName: before.subject.cn };
    const tbs = buildTbs(profileNamed(name), { issuer, serial, notBefore, notAfter, subject, spki, ...more });
    const bytes = "bytes" in tbs ? (tbs as { bytes: Uint8Array }).bytes : tbs;
    return parseCertificate(sequence(bytes, algorithmIdentifier(ca.key.algorithm), bitString(ca.key.sign(bytes))));
  }
  const certifying = (certificate: Certificate): Edit =>
    upToCertified((act) => {
      if (act.type === "intent") {
        const tbsRoot = toHex(leafHash(fromHex(sha(certificate.tbs))));
        return { ...act, fields: { ...act.fields, tbsRoot } };
      }
      if (act.type !== "certified") return act;
      return { ...act, fields: { ...act.fields, certificate: toBase64(certificate.der) } };
    });

  it("sees a certificate that isn't of the lot's profile, however well its path holds", async () => {
    expect(await codes(world.z, certifying(certificateOf("idevid")))).toEqual([]);
    const forgeries = [
      certificateOf("intermediate-embedded", { pathLen: 0 }),
      certificateOf("server", { san: [{ kind: "dns", value: "hub.example" }] } as Partial<TbsParams>),
      certificateOf("ldevid"),
      certificateOf("idevid", { subject: { commonName: "DEV-00001", organization: "Company-X" } }),
      certificateOf("idevid", { notAfter: new Date(world.z.ca.certificate.notAfter.getTime() + 1000) }),
    ];
    const answers = [];
    for (const certificate of forgeries) answers.push(await codes(world.z, certifying(certificate)));
    expect(answers).toEqual([
      ["certificate-invalid"],
      ["certificate-invalid"],
      ["certificate-invalid"],
      [], // an organization is the profile's to allow
      ["certificate-invalid"],
    ]);
  });

  it("knows no renewal of a first certificate", async () => {
    const renewal = fieldsOf("certified", () => ({ purpose: "renewal" as const }));
    expect(await codes(world.z, renewal)).toEqual(["certificate-invalid"]);
  });

  it("sees a device certified that its taker says it never got", async () => {
    const denied = only("handoff-received", (act) => ({
      ...act,
      fields: { ...act.fields, discrepancies: ["DEV-00001: not in the box"] },
    }));
    expect(await codes(world.z, denied)).toEqual(["custody-broken"]);
    const remark = only("handoff-received", (act) => ({
      ...act,
      fields: { ...act.fields, discrepancies: ["DEV-00001 came in a wet box"] },
    }));
    expect(await codes(world.z, remark)).toEqual([]);
  });

  it("sees another firmware than the lot's terms name, and a second injection", async () => {
    const receipt = (change: object): Edit =>
      fieldsOf("injected", (fields) => ({ receipt: { ...fields.receipt, ...change } }));
    const other = { original: { path: "firmware/blank.bin", sha256: sha("backdoor") } };
    expect(await codes(world.z, receipt(other))).toEqual(["injection-invalid"]);
    expect(await codes(world.z, receipt({ format: "esp-flash" }))).toEqual(["injection-invalid"]);
    const layout = fieldsOf("injected", () => ({ layoutSha256: sha("another layout") }));
    expect(await codes(world.z, layout)).toEqual(["injection-invalid"]);
    const chains = fieldsOf("injected", (f) => ({ chains: [{ ...f.chains[0]!, sha256: sha("another chain") }] }));
    expect(await codes(world.z, chains)).toEqual(["injection-invalid"]);
    const twice: Edit = (act) => {
      if (act.type === "installed") return undefined;
      if (act.type !== "injected") return act;
      const first = toHex(leafHash(buildStatement(act as Act)));
      const image = { path: "devices/other.bin", sha256: sha("another image") };
      const again = { ...act.fields, receipt: { ...act.fields.receipt, image } };
      return [act, { ...act, prev: [{ origin: act.origin, leafHash: first }], fields: again }];
    };
    expect(await codes(world.z, twice)).toEqual(["injection-invalid"]);
  });

  it("wants each batch signed for this lot, by the role that signs its kind and the technician it names", async () => {
    const { z } = world;
    const { fields, subject } = find(z, "installed");
    const items = [installItem(subject[0]!.name, fields.place, fields.time)];
    const installed = (intake: object, technician: string): Edit =>
      fieldsOf("installed", () => ({ intake, technician }) as Partial<ActFields<"installed">>);
    expect(
      await codes(
        z,
        fieldsOf("installed", () => ({ technician: sha("somebody else") })),
      ),
    ).toEqual(["intake-invalid"]);
    const key = testKey("p256");
    const [station] = await z.manifest("install", "LOT-1", items, { key, role: "station" });
    expect(await codes(z, installed(station!, key.keyId))).toEqual(["intake-invalid"]);
    const [elsewhere] = await z.manifest("install", "LOT-2", items, { key });
    expect(await codes(z, installed(elsewhere!, key.keyId))).toEqual(["intake-invalid"]);
    const [good] = await z.manifest("install", "LOT-1", items, { key });
    expect(await codes(z, installed(good!, key.keyId))).toEqual([]);
    const [misnamed] = await z.manifest("install", "LOT-1", items, { key, change: { keyId: sha("no key") } });
    expect(await codes(z, installed(misnamed!, sha("no key")))).toEqual(["intake-invalid"]);
    const [late] = await z.manifest("install", "LOT-1", items, {
      key,
      change: { created: "2999-01-01T00:00:00.000Z" },
    });
    expect(await codes(z, installed(late!, key.keyId))).toEqual(["intake-invalid"]);

    const est = { kind: "est", csrSha256: sha("csr 0"), clientCertificateSha256: sha("client") };
    expect(await codes(z, installed(est, key.keyId))).toEqual(["intake-invalid"]);
    const otherRequest = { ...est, csrSha256: sha("csr 1") } as ActFields<"certified">["intake"];
    expect(
      await codes(
        z,
        fieldsOf("certified", () => ({ intake: otherRequest })),
      ),
    ).toEqual(["intake-invalid"]);
    const [unintended] = await z.manifest("certify", "LOT-1", [csrItem(sha("csr 0"))]);
    expect(
      await codes(
        z,
        fieldsOf("certified", () => ({ intake: unintended! })),
      ),
    ).toEqual(["intent-missing"]);
  });

  it("lets no party name its keys twice, or claim the root's ceremony for itself", async () => {
    const { x, y, z } = world;
    const subject = find(z, "keyset").subject[0]!;
    const swapped = { ...z.keyset, act: toBase64(testKey("p256").spki) };
    const { entry } = await signed(z, "keyset", subject, { keyset: { ...swapped, proofs: await proofs(z, swapped) } });
    expect(await codes(z, keep, [entry])).toEqual(["keyset-invalid"]);

    const { fields } = find(x, "ceremony");
    const keyset = { ...y.keyset, ca: fields.keyset.ca };
    const claim = { ...fields, keyset: { ...keyset, proofs: await proofs(y, keyset) } };
    const ceremony = await signed(y, "ceremony", find(y, "keyset").subject[0]!, claim);
    expect(await codes(y, keep, [ceremony.entry])).toEqual(["ceremony-invalid"]);
  });

  async function proofs(party: TestParty, { proofs: old, ...keys }: TestParty["keyset"]) {
    return { ...old, witness: { signature: toBase64(await party.witness.sign(keysetProofMessage(keys))) } };
  }

  it("lets a grant take effect by its child's acceptance, once", async () => {
    const { y, z } = world;
    const first = find(y, "delegation");
    const other = issueCa(
      y.ca,
      { commonName: "Technician-Z CA" },
      { pathLen: 0, key: z.ca.key, at: new Date(Date.now() - 3_000_000) },
    );
    const second = await signed(
      y,
      "delegation",
      first.subject[0]!,
      {
        ...first.fields,
        id: "factory-y-technician-z-2",
        quota: 4000,
        certificate: toBase64(other.certificate.der),
      },
      { prev: first.prev, grant: first.grant! },
    );
    // By itself it changes nothing about the child, and stays open.
    const log = await rewritten(y, keep, [second.entry]);
    const report = await audit(y, log);
    expect(report.errors).toBe(0);
    expect(report.findings).toMatchObject([{ severity: "open", code: "not-accepted" }]);

    const before = find(z, "acceptance");
    const chain = [other.certificate, y.ca.certificate, world.root];
    const accepted = await signed(
      z,
      "acceptance",
      before.subject[0]!,
      {
        keyset: before.fields.keyset,
        chainSha256: sha(Buffer.concat(chain.map((c) => c.der))),
      },
      { prev: [before.fields.keyset, second.ref], grant: second.ref },
    );
    const logs = new Map([
      [y.id, log],
      [z.id, await rewritten(z, keep, [accepted.entry])],
    ]);
    const both = await auditWorld(world, logs);
    expect(both.findings.filter((f) => f.severity === "error")).toMatchObject([{ code: "grant-exceeded" }]);
  });

  it("lets nobody delegate before its own grant, or outside its window", async () => {
    const late = only("delegation", (act) => ({ ...act, time: "2999-01-01T00:00:00.000Z" }));
    expect(await codes(world.y, late)).toContain("grant-exceeded");
    const early = only("acceptance", () => undefined);
    expect(await codes(world.y, early)).toContain("act-invalid");
    const unnamed: Edit = (act) => {
      const { grant: _grant, ...rest } = act;
      return act.type === "acceptance" ? undefined : act.type === "delegation" ? (rest as AnyAct) : act;
    };
    expect(await codes(world.y, unnamed)).toContain("act-invalid");
  });

  it("wants one request, one list and one subject where there must be one", async () => {
    const { x, y, z } = world;
    const grant = grantOf(y);
    const terms = { ...find(y, "lot-opened").fields, lot: "LOT-2", issuer: y.id, slots: 2 };
    const lot = await signed(y, "lot-opened", { name: "LOT-2", digest: { sha256: sha("LOT-2") } }, terms, { grant });
    const [intake] = await y.manifest("built", "LOT-2", [csrItem(sha("one request"))]);
    const entries = [1, 2].map((slot) => {
      const key = testKey("p256");
      const subject = { name: `DEV-9000${slot}`, digest: { sha256: key.keyId } };
      const fields = { lot: "LOT-2", slot, spki: toBase64(key.spki), csrSha256: sha("one request"), intake: intake! };
      return y.statement("built", subject, fields, { prev: [lot.ref], grant });
    });
    expect(await codes(y, keep, [lot.entry, entries[0]!])).toEqual([]);
    expect(await codes(y, keep, [lot.entry, ...entries])).toEqual(["device-invalid"]);

    const twoLists = only("handoff-released", (act) => ({
      ...act,
      blobs: [...act.blobs, { ...act.blobs[0]!, size: 1 }],
    }));
    expect(await codes(y, twoLists)).toContain("handoff-invalid");
    const twoSubjects = only("installed", (act) => ({
      ...act,
      subject: [...act.subject, { name: "DEV-2", digest: { sha256: sha("2") } }],
    }));
    expect(await codes(z, twoSubjects)).toEqual(["act-invalid"]);

    const stranger = await signed(x, "lot-opened", find(y, "lot-opened").subject[0]!, find(y, "lot-opened").fields);
    expect(await codes(x, keep, [stranger.entry])).toEqual(["lot-invalid"]);
  });

  it("sees a time that can't be, another subject than the fields', and another party's grant", async () => {
    const { x, y, z } = world;
    for (const type of ["acceptance", "handoff-received", "injected", "installed"] as const) {
      expect(
        await codes(
          z,
          only(type, (act) => ({ ...act, time: "2020-01-01T00:00:00.000Z" })),
        ),
      ).toContain("act-invalid");
    }
    // What comes after it shows a time that lies ahead.
    const ahead = only("injected", (act) => ({ ...act, time: "2998-01-01T00:00:00.000Z" }));
    expect(await codes(z, ahead)).toContain("act-invalid");
    for (const type of ["acceptance", "lot-opened", "intent", "handoff-received"] as const) {
      const renamed = only(type, (act) => ({ ...act, subject: [{ ...act.subject[0]!, name: "somebody else" }] }));
      expect(await codes(z, renamed)).toContain("act-invalid");
    }
    const borrowed = only("installed", (act) => ({ ...act, grant: grantOf(y) }));
    expect(await codes(z, borrowed)).toEqual(["act-invalid"]);
    expect(await codes(x, keep)).toEqual([]);
  });

  it("wants the grant named in every act of whoever isn't the root's party", async () => {
    const { y, z } = world;
    const bare = (...types: ActType[]): Edit => {
      return (act) => {
        const { grant: _grant, ...rest } = act;
        return types.includes(act.type) ? (rest as AnyAct) : act;
      };
    };
    for (const type of ["lot-opened", "handoff-received", "intent", "certified", "injected", "installed"] as const) {
      expect(await codes(z, bare(type)), type).toContain("act-invalid");
    }
    for (const type of ["lot-opened", "built", "handoff-released", "delegation"] as const) {
      expect(await codes(y, bare(type)), type).toContain("act-invalid");
    }
  });

  it("lets nobody build whose grant doesn't say so: not even a device of its own to certify", async () => {
    const { x, y, z } = world;
    const opening = async (party: TestParty, lot: string, more: { time?: string } = {}) => {
      const terms = { ...find(y, "lot-opened").fields, lot, builder: party.id, issuer: party.id };
      const grant = grantOf(party);
      return signed(party, "lot-opened", { name: lot, digest: { sha256: sha(lot) } }, terms, { grant, ...more });
    };
    const own = await opening(z, "LOT-OWN");
    expect(await codes(z, keep, [own.entry])).toEqual(["grant-exceeded"]);
    const factory = await opening(y, "LOT-FACTORY");
    expect(await codes(y, keep, [factory.entry])).toEqual([]);
    const late = await opening(y, "LOT-LATE", { time: "2999-01-01T00:00:00.000Z" });
    expect(await codes(y, keep, [late.entry])).toEqual(["grant-exceeded"]);

    // Nor can a party give on what it doesn't hold: all three ledgers, rewritten to continue each other.
    const rewrite = async (given: boolean) => {
      const renamed = new Map<string, string>();
      const mayBuild = (value: boolean) => fieldsOf("delegation", () => ({ mayBuild: value }));
      const logs = new Map([[x.id, await rewritten(x, mayBuild(false), [], renamed)]]);
      logs.set(y.id, await rewritten(y, mayBuild(given), [], renamed));
      logs.set(z.id, await rewritten(z, keep, [], renamed));
      const { findings } = await auditWorld(world, logs);
      return findings.filter((f) => f.code === "grant-exceeded").map((finding) => finding.message);
    };
    const building = "lot-opened: the party's grant doesn't allow it to build";
    expect(await rewrite(false)).toEqual([building]);
    expect(await rewrite(true)).toEqual([
      "delegation: it allows building, which the party's own grant doesn't",
      building,
    ]);
  });

  it("holds what the acts name against what lies beside the ledger", async () => {
    const { x, y, z } = world;
    const without = async (party: TestParty, digest: string) => {
      const bytes = party.blobs.get(digest)!;
      party.blobs.delete(digest);
      try {
        return await codes(party, keep);
      } finally {
        party.blobs.set(digest, bytes);
      }
    };
    for (const party of [x, y, z]) {
      const { certificateSha256 } = party.keyset.proofs.infrastructure;
      const missing = await without(party, certificateSha256);
      expect(missing).toEqual(expect.arrayContaining(["blob-missing", "keyset-invalid"]));
    }
    const { document } = find(x, "ceremony").fields;
    expect(await without(x, document.sha256)).toEqual(expect.arrayContaining(["blob-missing", "ceremony-invalid"]));

    const keysetOf = (party: TestParty, proofs: Partial<TestParty["keyset"]["proofs"]>): Edit =>
      only(party === x ? "ceremony" : "keyset", (act) => {
        const { keyset } = act.fields as ActFields<"keyset">;
        return { ...act, fields: { ...act.fields, keyset: { ...keyset, proofs: { ...keyset.proofs, ...proofs } } } };
      });
    const foreign = z.blob("infrastructure", y.infrastructure.certificate.der).sha256;
    const request = z.blob("request", utf8("no request")).sha256;
    const wrongs: [TestParty, Partial<TestParty["keyset"]["proofs"]>][] = [
      [z, { infrastructure: { certificateSha256: foreign } }],
      [z, { infrastructure: { certificateSha256: sha("nothing") } }],
      [z, { ca: { kind: "csr", sha256: request } }],
      [z, { ca: { kind: "self-signed", sha256: sha(z.ca.certificate.der) } }],
      [x, { ca: { kind: "self-signed", sha256: sha("another root") } }],
      [x, { ca: { kind: "csr", sha256: sha(world.root.der) } }],
    ];
    for (const [party, proofs] of wrongs) {
      expect(await codes(party, keysetOf(party, proofs)), JSON.stringify(proofs)).toContain("keyset-invalid");
    }
    const size = only("keyset", (act) => ({ ...act, blobs: act.blobs.map((blob) => ({ ...blob, size: 1 })) }));
    expect(await codes(z, size)).toContain("act-invalid");
  });

  it("calls no quorum met that only some of the ledgers need", async () => {
    const { x, z, policy, root } = world;
    const witnessed = `log ${z.keyset.log.vkey}\nwitness w ${x.keyset.witness.vkey}\nquorum w\n`;
    const { report } = await auditLedgers({
      root,
      policy: { ...policy, logs: { ...policy.logs, [z.id]: witnessed } },
      verify: opensslVerify,
      fetch: async () => undefined,
    });
    expect(report).toMatchObject({ ok: false, quorum: "none" });
  });

  it("reads each leaf in one way only, and answers where it can't", async () => {
    const { y, z } = world;
    const { entry } = await signed(
      z,
      "hub-registered",
      { name: z.id, digest: { sha256: sha("z") } },
      {
        hub: "hub",
        caSha256: sha(world.root.der),
        codeSha256: sha("code"),
      },
      { grant: grantOf(z) },
    );
    expect(await codes(z, keep, [entry])).toEqual([]);
    const text = fromUtf8(entry);
    const spaced = utf8(text.replace(",", ", "));
    const doubled = utf8(text.replace(/\}$/, `,"payloadType":"application/vnd.in-toto+json"}`));
    for (const other of [spaced, doubled]) expect(await codes(z, keep, [entry, other])).toEqual(["act-invalid"]);

    // Base64 that leaves bits over is no other spelling of the same bytes, and no way to stop an auditor.
    const built = fromUtf8(y.log.entries.find((one) => fromUtf8(one).includes("act:built:"))!);
    const bent = utf8(built.replace(/"spki":"[^"]*"/, '"spki":"AB=="'));
    expect(await codes(y, keep, [bent])).toEqual(["act-invalid"]);
  });
});
