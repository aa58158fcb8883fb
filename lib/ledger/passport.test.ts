import { beforeAll, describe, expect, it } from "vitest";
import { fromBase64, fromUtf8, toBase64, toHex, utf8 } from "../domain/bytes.ts";
import { canonicalJson } from "../domain/json.ts";
import { webCryptoVerify } from "../pki/verify.ts";
import { PAYLOAD_TYPES, signDsse } from "../records/dsse.ts";
import type { Passport } from "../records/passport.ts";
import { parseEntry } from "../records/statement.ts";
import { opensslVerify } from "../../test/support/memory-log.ts";
import { testWorld, type TestParty, type TestWorld } from "../../test/support/world.ts";
import { signCheckpoint } from "./checkpoint.ts";
import { auditLedgers } from "./audit/ledgers.ts";
import { formatPolicy } from "./policy.ts";
import { buildPassport, LedgerIndex, type PassportSource } from "./passport-build.ts";
import { verifyPassport } from "./passport.ts";
import { LogReader } from "./reader.ts";
import { inclusionProof, leafHash, rootOf } from "./tree.ts";

async function sourceOf(world: TestWorld): Promise<PassportSource> {
  const parties = new Map<string, TestParty>([world.x, world.y, world.z].map((party) => [party.id, party]));
  const logs = new Map<string, LedgerIndex>();
  for (const { id, log } of parties.values()) {
    const reader = await LogReader.open({ fetch: log.fetch, log: log.key, verify: opensslVerify });
    logs.set(id, await LedgerIndex.read(id, reader));
  }
  const { root, policy } = world;
  return { logs, root, policy, blob: async (party, sha256) => parties.get(party)?.blobs.get(sha256) };
}
const bytesOf = (passport: Passport): Uint8Array => utf8(JSON.stringify(passport));

describe("a device's passport", () => {
  let world: TestWorld;
  let source: PassportSource;
  let passport: Passport;
  const DEVICE = "DEV-00001";
  const verdict = (p: Passport) => verifyPassport(bytesOf(p), world.root, world.policy, opensslVerify);
  beforeAll(async () => {
    world = await testWorld(300);
    source = await sourceOf(world);
    passport = await buildPassport(DEVICE, source);
  });

  it("starts from ledgers that the audit of everything finds whole", async () => {
    const parties = new Map([world.x, world.y, world.z].map((party) => [party.id, party]));
    const { report } = await auditLedgers({
      root: world.root,
      policy: world.policy,
      verify: opensslVerify,
      fetch: async (id, path) => {
        const party = parties.get(id)!;
        return path.startsWith("blobs/") ? party.blobs.get(path.slice(6)) : party.log.fetch(path);
      },
    });
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
    const types = passport.acts.map((act) => parseEntry(fromBase64(act.entry)).act.type);
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
    expect(bytesOf(last).length).toBeLessThan(120_000);
  });

  it("is the same again when it is built again", async () => {
    expect(canonicalJson(await buildPassport(DEVICE, source))).toEqual(canonicalJson(passport));
  });

  it("needs every act: each one left out is noticed", async () => {
    for (let i = 0; i < passport.acts.length; i++) {
      const type = parseEntry(fromBase64(passport.acts[i]!.entry)).act.type;
      const less = { ...passport, acts: passport.acts.toSpliced(i, 1) };
      const answer = await verdict(less);
      // What came last proves less, but nothing false.
      if (i === passport.acts.length - 1) expect(answer).toMatchObject({ ok: true, installed: false });
      else expect(answer.ok, `without ${type}`).toBe(false);
    }
    expect(await verdict({ ...passport, acts: passport.acts.toReversed() })).toMatchObject({ ok: false });
    // Each ledger's own order is part of what it says, also between acts that don't name each other.
    const ofZ = passport.acts.flatMap(({ origin }, i) => (origin === world.z.origin ? [i] : []));
    const typeAt = (i: number) => parseEntry(fromBase64(passport.acts[i]!.entry)).act.type;
    const received = ofZ.find((i) => typeAt(i) === "handoff-received")!;
    const intended = ofZ.find((i) => typeAt(i) === "intent")!;
    const swapped = passport.acts.with(received, passport.acts[intended]!).with(intended, passport.acts[received]!);
    expect(await verdict({ ...passport, acts: swapped })).toMatchObject({ ok: false, code: "act-repeated" });
    expect(await verdict({ ...passport, acts: [...passport.acts, passport.acts.at(-1)!] })).toMatchObject({
      ok: false,
      code: "act-repeated",
    });
  });

  it("notices any changed act, index, path, checkpoint, chain or manifest, and says where", async () => {
    for (const [i, act] of passport.acts.entries()) {
      const bytes = fromBase64(act.entry);
      bytes[Math.floor(bytes.length / 2)]! ^= 1;
      const where = { origin: act.origin, index: act.index };
      expect(
        await verdict({ ...passport, acts: passport.acts.with(i, { ...act, entry: toBase64(bytes) }) }),
      ).toMatchObject({
        ok: false,
        code: "proof-invalid",
        at: where,
      });
      const moved = { ...act, index: act.index + 1 };
      expect(await verdict({ ...passport, acts: passport.acts.with(i, moved) })).toMatchObject({ ok: false });
      if (act.path.length === 0) continue;
      const bent = { ...act, path: act.path.with(0, "0".repeat(64)) };
      expect(await verdict({ ...passport, acts: passport.acts.with(i, bent) })).toMatchObject({ ok: false, at: where });
    }
    for (const [i, log] of passport.logs.entries()) {
      const without = { ...passport, logs: passport.logs.toSpliced(i, 1) };
      if (passport.logs.length > 1) expect(await verdict(without)).toMatchObject({ ok: false, code: "log-missing" });
      const other = log.checkpoint.replace(/\n(\d+)\n/, (_, n) => `\n${Number(n) + 1}\n`);
      const bent = { ...passport, logs: passport.logs.with(i, { ...log, checkpoint: other }) };
      expect(await verdict(bent)).toMatchObject({ ok: false, code: "note-invalid" });
    }
    const chain = passport.chains[0]!;
    const shorter = { ...chain, certificates: chain.certificates.slice(0, -1) };
    expect(await verdict({ ...passport, chains: [shorter] })).toMatchObject({ ok: false, code: "certificate-invalid" });
    for (let i = 0; i < passport.manifests.length; i++) {
      const less = { ...passport, manifests: passport.manifests.toSpliced(i, 1) };
      expect(await verdict(less)).toMatchObject({ ok: false, code: "intake-invalid" });
    }
  });

  it("isn't another device's", async () => {
    const other = await buildPassport("DEV-00002", source);
    expect(await verdict({ ...passport, device: other.device })).toMatchObject({ ok: false, code: "custody-broken" });
    expect(await verdict({ ...passport, chains: other.chains })).toMatchObject({
      ok: false,
      code: "certificate-invalid",
    });
    const renamed = { ...passport, device: { ...passport.device, spkiSha256: other.device.spkiSha256 } };
    expect(await verdict(renamed)).toMatchObject({ ok: false, code: "device-invalid" });
    const mixed = passport.acts.map((act, i) => {
      const { type } = parseEntry(fromBase64(act.entry)).act;
      return type === "injected" ? other.acts[i]! : act;
    });
    expect(await verdict({ ...passport, acts: mixed })).toMatchObject({ ok: false });
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
    const i = passport.acts.findIndex((act) => parseEntry(fromBase64(act.entry)).act.type === "handoff-received");
    const { statement } = parseEntry(fromBase64(passport.acts[i]!.entry));
    const forged = await signDsse(PAYLOAD_TYPES.statement, statement, world.y.act, world.z.act.keyId);
    const act = passport.acts[i]!;
    const leaves = world.z.log.entries.with(act.index, forged).map((entry) => leafHash(entry));
    const checkpoint = await signCheckpoint(
      { origin: world.z.origin, size: leaves.length, root: rootOf(leaves) },
      world.z.log.signer,
    );
    const logs = passport.logs.map((log) =>
      log.origin === world.z.origin ? { ...log, checkpoint: fromUtf8(checkpoint) } : log,
    );
    const acts = passport.acts.map((one, at) => {
      if (one.origin !== world.z.origin) return one;
      return {
        ...one,
        path: inclusionProof(leaves, one.index).map(toHex),
        ...(at === i ? { entry: toBase64(forged) } : {}),
      };
    });
    expect(await verdict({ ...passport, acts, logs })).toMatchObject({
      ok: false,
      code: "act-unsigned",
      at: { origin: world.z.origin, index: act.index },
    });
  });

  it("shows what the holder chose to show, and nothing that was never committed to", async () => {
    const shown = { ...passport, openings: [world.place] };
    expect(await verdict(shown)).toMatchObject({ ok: true });
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
    for (const text of ["", "{}", "[]", "null", "\u0000", `{"schema":2}`, JSON.stringify({ ...passport, more: 1 })]) {
      expect(await answer(utf8(text))).toMatchObject({ ok: false, code: "passport-invalid" });
    }
    expect(await answer(new Uint8Array(9 << 20))).toMatchObject({ ok: false, code: "passport-invalid" });
    expect(await answer(Uint8Array.of(0xff))).toMatchObject({ ok: false, code: "passport-invalid" });
  });

  it("isn't made for an unknown device", async () => {
    await expect(buildPassport("DEV-99999", source)).rejects.toMatchObject({ code: "not-found" });
  });
});
