import { beforeAll, describe, expect, it } from "vitest";
import { fromBase64, fromUtf8, toBase64, toHex, utf8 } from "../domain/bytes.ts";
import { canonicalJson } from "../domain/json.ts";
import { webCryptoVerify } from "../pki/verify.ts";
import { PAYLOAD_TYPES, signDsse } from "../records/dsse.ts";
import { MAX_PASSPORT_BYTES, type Passport } from "../records/passport.ts";
import { parseEntry } from "../records/statement.ts";
import { auditWorld } from "../../test/support/audit-world.ts";
import { opensslVerify } from "../../test/support/memory-log.ts";
import { enlarge, witnessedPolicy } from "../../test/support/large-passport.ts";
import { sourceOf, testWorld, type TestWorld } from "../../test/support/world.ts";
import { signCheckpoint } from "./checkpoint.ts";
import { formatPolicy } from "./policy.ts";
import { buildPassport, gatherEvidence, type PassportSource } from "./passport-build.ts";
import type { PassportEvidence } from "./passport-evidence.ts";
import { formatPassport, packPassport } from "./passport-pack.ts";
import { unpackPassport } from "./passport-unpack.ts";
import { verifyPassport } from "./passport.ts";
import { inclusionProof, leafHash, rootOf } from "./tree.ts";

const bytesOf = formatPassport;
const typeOf = ({ entry }: PassportEvidence["acts"][number]) => parseEntry(entry).act.type;

describe("a device's passport", () => {
  let world: TestWorld;
  let source: PassportSource;
  let passport: Passport;
  let evidence: PassportEvidence;
  const DEVICE = "DEV-00001";
  const pack = (one: PassportEvidence) => packPassport(one, world.root.der);
  const verdict = (p: Passport) => verifyPassport(bytesOf(p), world.root, world.policy, opensslVerify);
  const shown = (one: PassportEvidence) => verdict(pack(one));
  beforeAll(async () => {
    world = await testWorld(300);
    source = await sourceOf(world);
    passport = await buildPassport(DEVICE, source);
    evidence = await gatherEvidence(DEVICE, source);
  });

  it("starts from ledgers that the audit of everything finds whole", async () => {
    const report = await auditWorld(world);
    expect(report.findings).toEqual([]);
    expect(report.devices).toBe(300);
  });

  it("proves the whole history, in order, to whoever has the root and the policy", async () => {
    expect(await verdict(passport)).toMatchObject({
      ok: true,
      deviceId: DEVICE,
      holder: "technician-z",
      issuer: "technician-z",
      injected: true,
      installed: true,
      logs: 3,
      acts: 16,
    });
    const types = passport.acts.map((act) => act.type);
    expect(types.toSorted()).toEqual([
      ...["acceptance", "acceptance", "built", "ceremony", "certified", "delegation", "delegation"],
      ...["handoff-received", "handoff-released", "injected", "installed", "intent"],
      ...["keyset", "keyset", "lot-opened", "lot-opened"],
    ]);
    // As a browser checks it.
    const inBrowser = await verifyPassport(bytesOf(passport), world.root, world.policy, webCryptoVerify);
    expect(inBrowser.ok).toBe(true);
    const last = await buildPassport("DEV-00300", source);
    expect(await verdict(last)).toMatchObject({ ok: true, deviceId: "DEV-00300" });
    expect(bytesOf(last).length).toBeLessThan(26_000);
  });

  it("is the same again when it is built again", async () => {
    expect(canonicalJson(await buildPassport(DEVICE, source))).toEqual(canonicalJson(passport));
  });

  it("unpacks to the bytes that were logged", () => {
    const unpacked = unpackPassport(passport, world.root.der);
    const entries = (one: PassportEvidence) => one.acts.map(({ origin, index, entry }) => ({ origin, index, entry }));
    expect({ ...unpacked, acts: entries(unpacked) }).toEqual({ ...evidence, acts: entries(evidence) });
    for (const { origin, index, entry } of unpacked.acts) {
      const party = [world.x, world.y, world.z].find((one) => one.origin === origin)!;
      expect(entry).toEqual(party.log.entries[index]);
    }
  });

  it("has each thing once", () => {
    const text = fromUtf8(bytesOf(passport));
    for (const recurring of [world.x, world.y, world.z].flatMap(({ origin, keyset }) => [`"${origin}"`, keyset.act])) {
      expect(text.split(recurring).length - 1, recurring).toBeLessThanOrEqual(3);
    }
    const hashes = passport.hashes;
    const all = Array.from({ length: fromBase64(hashes).length / 32 }, (_, i) =>
      toHex(fromBase64(hashes).subarray(32 * i, 32 * i + 32)),
    );
    expect(new Set(all).size).toBe(all.length);
    for (const der of evidence.chains[0]!.certificates) expect(text.split(toBase64(der)).length - 1).toBe(1);
    expect(text).not.toContain(toBase64(world.root.der));
  });

  it("needs every act: each one left out is noticed", async () => {
    for (const [i, act] of evidence.acts.entries()) {
      const answer = await shown({ ...evidence, acts: evidence.acts.toSpliced(i, 1) });
      expect(answer.ok, `without ${typeOf(act)}`).toBe(false);
    }
    // What came last, with the batch behind it: that proves less, but nothing false.
    const earlier = { ...evidence, acts: evidence.acts.slice(0, -1), manifests: evidence.manifests.slice(0, -1) };
    expect(await shown(earlier)).toMatchObject({ ok: true, installed: false });
    expect(await shown({ ...evidence, acts: evidence.acts.toReversed() })).toMatchObject({ ok: false });
    // Each ledger's own order is part of what it says, also between acts that don't name each other.
    const ofZ = evidence.acts.flatMap(({ origin }, i) => (origin === world.z.origin ? [i] : []));
    const received = ofZ.find((i) => typeOf(evidence.acts[i]!) === "handoff-received")!;
    const intended = ofZ.find((i) => typeOf(evidence.acts[i]!) === "intent")!;
    const swapped = evidence.acts.with(received, evidence.acts[intended]!).with(intended, evidence.acts[received]!);
    expect(await shown({ ...evidence, acts: swapped })).toMatchObject({ ok: false, code: "act-repeated" });
    expect(await shown({ ...evidence, acts: [...evidence.acts, evidence.acts.at(-1)!] })).toMatchObject({
      ok: false,
      code: "act-repeated",
    });
  });

  it("notices any changed act, index, path, checkpoint, chain or manifest, and says where", async () => {
    for (const [i, act] of passport.acts.entries()) {
      const at = { origin: passport.logs[act.log]!.origin, index: act.index };
      const changed = (more: Partial<typeof act>) => ({
        ...passport,
        acts: passport.acts.with(i, { ...act, ...more }),
      });
      const later = act.time.replace(/[^9]Z$/, "9Z").replace(/9Z$/, act.time.endsWith("9Z") ? "8Z" : "9Z");
      const refused = { ok: false, code: "proof-invalid", at };
      expect(await verdict(changed({ time: later })), act.type).toMatchObject(refused);
      expect(await verdict(changed({ index: act.index + 1 }))).toMatchObject({ ok: false });
      expect(await verdict(changed({ log: (act.log + 1) % 3 }))).toMatchObject({ ok: false });
      const [first] = act.path;
      if (first === undefined) continue;
      const bytes = fromBase64(passport.hashes);
      bytes[32 * first]! ^= 1;
      expect(await verdict({ ...passport, hashes: toBase64(bytes) }), act.type).toMatchObject(refused);
      const short = changed({ path: [...act.path.slice(0, -1), act.path.at(-1)! - 1] });
      expect(await verdict(short)).toMatchObject({ ok: false });
    }
    for (const [i, log] of passport.logs.entries()) {
      const less = { ...passport, logs: passport.logs.toSpliced(i, 1) };
      expect(await verdict(less)).toMatchObject({ ok: false });
      const other = log.checkpoint.replace(/\n(\d+)\n/, (_, n) => `\n${Number(n) + 1}\n`);
      const bent = { ...passport, logs: passport.logs.with(i, { ...log, checkpoint: other }) };
      expect(await verdict(bent)).toMatchObject({
        ok: false,
        code: "note-invalid",
        message: expect.stringContaining(log.origin),
      });
      const foreign = { ...passport, logs: passport.logs.with(i, { ...log, party: "somebody-else" }) };
      expect(await verdict(foreign)).toMatchObject({ ok: false });
    }
    const chain = passport.chains[0]!;
    const shorter = { ...chain, certificates: chain.certificates.slice(0, -1) };
    expect(await verdict({ ...passport, chains: [shorter] })).toMatchObject({ ok: false, code: "certificate-invalid" });
    const renamed = { ...chain, purpose: "ldevid" as const };
    expect(await verdict({ ...passport, chains: [renamed] })).toMatchObject({ ok: false, code: "certificate-invalid" });
    for (let i = 0; i < evidence.manifests.length; i++) {
      const less = { ...evidence, manifests: evidence.manifests.toSpliced(i, 1) };
      expect(await shown(less)).toMatchObject({ ok: false, code: "intake-invalid" });
    }
  });

  it("refuses references to nothing, things that nothing refers to, and short ones that stand for too much", async () => {
    const [act] = passport.acts;
    const acts = (more: Partial<Passport["acts"][number]>) => passport.acts.with(0, { ...act!, ...more });
    const last = `$${passport.values.length}`;
    const refused: [string, Partial<Passport>][] = [
      ["#4095 names|no 1 hashes from #4095", { acts: acts({ retryKey: "#4095" }) }],
      ["names no hash", { acts: acts({ retryKey: "#01" }) }],
      ["names no hash", { acts: acts({ retryKey: "#1-2" }) }],
      ["names no value", { acts: acts({ subject: ["$999", "#0"] }) }],
      ["names no act before it", { acts: acts({ grant: "@0" }) }],
      ["no length", { acts: acts({ path: [1] }) }],
      ["no 0 hashes", { acts: acts({ path: [1, 0] }) }],
      ["there is no log 9", { acts: acts({ log: 9 }) }],
      ["nothing refers to \\$", { values: [...passport.values, "idle"] }],
      [
        "nothing refers to #",
        { hashes: toBase64(new Uint8Array([...fromBase64(passport.hashes), ...new Uint8Array(32)])) },
      ],
      ["no whole number", { hashes: toBase64(fromBase64(passport.hashes).slice(1)) }],
      ["an object stands where", { chains: [{ purpose: "idevid", certificates: ["$0"] }], values: [{}] }],
      [
        "more than 65535 bytes",
        {
          acts: acts({ prev: Array(8).fill(last), blobs: Array(16).fill(last) }),
          values: [...passport.values, "x".repeat(30_000)],
        },
      ],
      ["nested too deep", { acts: acts({ fields: JSON.parse(`${'{"a":'.repeat(40)}1${"}".repeat(40)}`) }) }],
    ];
    for (const [message, more] of refused) {
      expect(await verdict({ ...passport, ...more }), message).toMatchObject({
        ok: false,
        code: "passport-invalid",
        message: expect.stringMatching(message),
      });
    }
  });

  it("isn't another device's", async () => {
    const other = await buildPassport("DEV-00002", source);
    expect(await verdict({ ...passport, device: other.device })).toMatchObject({ ok: false, code: "custody-broken" });
    const otherEvidence = await gatherEvidence("DEV-00002", source);
    expect(await shown({ ...evidence, chains: otherEvidence.chains })).toMatchObject({
      ok: false,
      code: "certificate-invalid",
    });
    const renamed = { ...passport, device: { ...passport.device, spkiSha256: other.device.spkiSha256 } };
    expect(await verdict(renamed)).toMatchObject({ ok: false, code: "device-invalid" });
    const mixed = evidence.acts.map((act, i) => (typeOf(act) === "injected" ? otherEvidence.acts[i]! : act));
    expect(await shown({ ...evidence, acts: mixed })).toMatchObject({ ok: false });
  });

  it("holds under its own root and policy only", async () => {
    const elsewhere = await testWorld(1);
    const bytes = bytesOf(passport);
    const answer = (root: TestWorld, policy: TestWorld) =>
      verifyPassport(bytes, root.root, policy.policy, opensslVerify);
    expect(await answer(elsewhere, world)).toMatchObject({ ok: false, code: "root-mismatch" });
    expect(await answer(elsewhere, elsewhere)).toMatchObject({ ok: false, code: "policy-mismatch" });
    const logs = { ...world.policy.logs, "factory-y": formatPolicy(elsewhere.y.log.key) };
    const swapped = { ...world.policy, logs };
    expect(await verifyPassport(bytes, world.root, swapped, opensslVerify)).toMatchObject({ ok: false });
  });

  it("refuses acts that the party's log holds but its act key didn't sign", async () => {
    const i = evidence.acts.findIndex((one) => typeOf(one) === "handoff-received");
    const act = evidence.acts[i]!;
    const { statement } = parseEntry(act.entry);
    const forged = await signDsse(PAYLOAD_TYPES.statement, statement, world.y.act, world.z.act.keyId);
    const leaves = world.z.log.entries.with(act.index, forged).map((entry) => leafHash(entry));
    const checkpoint = await signCheckpoint(
      { origin: world.z.origin, size: leaves.length, root: rootOf(leaves) },
      world.z.log.signer,
    );
    const logs = evidence.logs.map((log) =>
      log.origin === world.z.origin ? { ...log, checkpoint: fromUtf8(checkpoint) } : log,
    );
    const acts = evidence.acts.map(({ origin, index, entry, path }, at) => ({
      origin,
      index,
      entry: at === i ? forged : entry,
      path: origin === world.z.origin ? inclusionProof(leaves, index) : path,
    }));
    expect(await shown({ ...evidence, acts, logs })).toMatchObject({
      ok: false,
      code: "act-unsigned",
      at: { origin: world.z.origin, index: act.index },
    });
  });

  it("shows what the holder chose to show, and nothing that was never committed to", async () => {
    const opened = { ...passport, openings: [world.place] };
    expect(await verdict(opened)).toMatchObject({ ok: true });
    const lie = { ...passport, openings: [{ ...world.place, value: "Hall 4" }] };
    expect(await verdict(lie)).toMatchObject({ ok: false, code: "opening-invalid" });
    const other = await buildPassport("DEV-00002", source);
    expect(await verdict({ ...other, openings: [world.place] })).toMatchObject({ ok: false, code: "opening-invalid" });
  });

  it("bounds the time from both sides when earlier checkpoints are there", async () => {
    const { z } = world;
    const entries = z.log.entries.map((entry) => leafHash(entry));
    const at = (size: number) =>
      signCheckpoint({ origin: z.origin, size, root: rootOf(entries.slice(0, size)) }, z.log.signer);
    const checkpoints = {
      over: async (party: string, index: number) => (party === z.id ? at(index + 1) : undefined),
      before: async (party: string, index: number) => (party === z.id ? at(index) : undefined),
    };
    const bounded = await buildPassport(DEVICE, { ...source, checkpoints });
    const log = bounded.logs.find(({ origin }) => origin === z.origin)!;
    expect(log.before).toBeDefined();
    expect(await verdict(bounded)).toMatchObject({ ok: true });
    const swapped = { ...log, before: log.checkpoint };
    const logs = bounded.logs.map((one) => (one === log ? swapped : one));
    expect(await verdict({ ...bounded, logs })).toMatchObject({ ok: false, code: "checkpoint-invalid" });
  });

  it("answers no to what isn't a passport", async () => {
    const answer = (bytes: Uint8Array) => verifyPassport(bytes, world.root, world.policy, opensslVerify);
    for (const text of ["", "{}", "[]", "null", "\u0000", `{"schema":1}`, JSON.stringify({ ...passport, more: 1 })]) {
      expect(await answer(utf8(text))).toMatchObject({ ok: false, code: "passport-invalid" });
    }
    expect(await answer(new Uint8Array(MAX_PASSPORT_BYTES + 1))).toMatchObject({ ok: false, code: "passport-invalid" });
    expect(await answer(Uint8Array.of(0xff))).toMatchObject({ ok: false, code: "passport-invalid" });
  });

  it("stays below 30 KiB and 4 KiB an act in ledgers of a million entries, every checkpoint cosigned twice", async () => {
    const million = await enlarge(evidence, world, 1_000_000);
    const file = bytesOf(pack(million));
    const policy = witnessedPolicy(world);
    const answer = await verifyPassport(file, world.root, policy, opensslVerify);
    expect(answer).toMatchObject({ ok: true, acts: 16 });
    if (!answer.ok) return;
    expect(answer.ledgers.map(({ size }) => size)).toEqual([1_000_000, 1_000_000, 1_000_000]);
    for (const { after, before } of answer.ledgers) {
      expect([after, before]).toEqual(["2026-09-21T14:13:20.000Z", "2026-09-21T14:14:20.000Z"]);
    }
    expect(file.length).toBeLessThan(30 * 1024);
    expect(bytesOf(passport).length).toBeLessThan(22 * 1024);
    expect(file.length / million.acts.length).toBeLessThan(4 * 1024);
    // An act's own share: what the file is shorter by without it.
    for (const [i, act] of million.acts.entries()) {
      const without = bytesOf(pack({ ...million, acts: million.acts.toSpliced(i, 1) }));
      expect(file.length - without.length, typeOf(act)).toBeLessThan(4 * 1024);
    }
    // Another quorum, another policy.
    expect(await verifyPassport(file, world.root, world.policy, opensslVerify)).toMatchObject({
      code: "policy-mismatch",
    });
    const alone = { ...million, policySha256: evidence.policySha256 };
    expect(await verifyPassport(bytesOf(pack(alone)), world.root, world.policy, opensslVerify)).toMatchObject({
      ok: true,
    });
    const uncosigned = evidence.logs.map((log) => ({ ...log, checkpoint: log.checkpoint }));
    expect(
      await verifyPassport(
        bytesOf(pack({ ...evidence, logs: uncosigned, policySha256: million.policySha256 })),
        world.root,
        policy,
        opensslVerify,
      ),
    ).toMatchObject({ ok: false, code: "checkpoint-invalid", message: expect.stringMatching(/quorum/) });
  });

  it("isn't made for an unknown device", async () => {
    await expect(buildPassport("DEV-99999", source)).rejects.toMatchObject({ code: "not-found" });
  });
});
