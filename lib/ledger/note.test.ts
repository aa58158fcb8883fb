import { execFileSync } from "node:child_process";
import { generateKeyPairSync, sign, type KeyObject } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { opensslVerify, testKey } from "../../test/support/memory-log.ts";
import { concatBytes, fromUtf8, toBase64, toHex, utf8 } from "../domain/bytes.ts";
import { sha256Hex } from "../domain/hash.ts";
import type { Signer } from "../domain/signing.ts";
import { formatCheckpoint, openCheckpoint, parseCheckpoint, signCheckpoint } from "./checkpoint.ts";
import {
  cosignatureMessage,
  ed25519Raw,
  ed25519Spki,
  formatNote,
  formatVkey,
  KEY_TYPE,
  noteKey,
  parseNote,
  parseVkey,
  signNote,
  verifyNote,
  type NoteKey,
} from "./note.ts";
import { formatPolicy, openUnderPolicy, parsePolicy } from "./policy.ts";
import { formatTlogProof, parseTlogProof } from "./proof.ts";
import { emptyRoot } from "./tree.ts";

interface Party {
  readonly signer: Signer;
  readonly privateKey: KeyObject;
  readonly raw: Uint8Array;
}
function party(): Party {
  const { privateKey, publicKey } = generateKeyPairSync("ed25519");
  const spki = new Uint8Array(publicKey.export({ format: "der", type: "spki" }));
  const signer: Signer = { spki, algorithm: "ed25519", sign: async (m) => new Uint8Array(sign(null, m, privateKey)) };
  return { signer, privateKey, raw: ed25519Raw(spki) };
}
const ORIGIN = "factory-y.example/log";
const log = party();
const logKey = noteKey(ORIGIN, KEY_TYPE.ed25519, log.raw);
const root = emptyRoot();

function cosign(note: Uint8Array, name: string, witness: Party, time: number): { note: Uint8Array; key: NoteKey } {
  const parsed = parseNote(note);
  const key = noteKey(name, KEY_TYPE.cosignature, witness.raw);
  const stamp = new Uint8Array(8);
  new DataView(stamp.buffer).setBigUint64(0, BigInt(time));
  const signature = concatBytes(
    stamp,
    new Uint8Array(sign(null, cosignatureMessage(parsed.text, time), witness.privateKey)),
  );
  const line = { name, keyId: key.keyId, signature };
  return { note: formatNote({ text: parsed.text, signatures: [...parsed.signatures, line] }), key };
}

describe("signed notes", () => {
  it("reads the example of Go's note package, and verifies it", async () => {
    // golang.org/x/mod/sumdb/note: the package's documentation.
    const key = parseVkey("PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW");
    const note = utf8(
      "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n" +
        "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n",
    );
    const parsed = parseNote(note);
    expect(await verifyNote(parsed, [key], opensslVerify)).toEqual([{ key }]);
    expect(toHex(formatNote(parsed))).toBe(toHex(note));
    const bent = parseNote(utf8(new TextDecoder().decode(note).replace("problem is", "problem was")));
    await expect(verifyNote(bent, [key], opensslVerify)).rejects.toMatchObject({ code: "note-invalid" });
  });

  it("signs what openssl verifies under the key in the vkey", async () => {
    const note = await signCheckpoint({ origin: ORIGIN, size: 7, root }, log.signer);
    const { text, signatures } = parseNote(note);
    const dir = mkdtempSync(join(tmpdir(), "note-"));
    try {
      const spki = ed25519Spki(parseVkey(formatVkey(logKey)).publicKey);
      writeFileSync(join(dir, "key.der"), spki);
      writeFileSync(join(dir, "text"), text);
      writeFileSync(join(dir, "sig"), signatures[0]!.signature);
      const verifyWith = (file: string): string =>
        execFileSync(
          "openssl",
          [
            "pkeyutl",
            "-verify",
            "-rawin",
            "-pubin",
            "-keyform",
            "DER",
            "-inkey",
            "key.der",
            "-in",
            file,
            "-sigfile",
            "sig",
          ],
          { cwd: dir, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] },
        );
      expect(verifyWith("text")).toContain("Signature Verified Successfully");
      writeFileSync(join(dir, "bent"), text.replace("7", "8"));
      expect(() => verifyWith("bent")).toThrow();
    } finally {
      rmSync(dir, { recursive: true });
    }
  });

  it("round-trips any text, names and signatures", () => {
    const name = fc
      .string({ unit: "grapheme", minLength: 1, maxLength: 20 })
      .filter((s) => !/[\s\u0085+\p{Cc}]/u.test(s));
    const text = fc
      .string({ unit: "grapheme", maxLength: 200 })
      .map((s) => s.replaceAll(/[\u0000-\u0009\u000b-\u001f]/g, "") + "\n");
    const signature = fc.record({
      name,
      keyId: fc.uint8Array({ minLength: 4, maxLength: 4 }).map(toHex),
      signature: fc.uint8Array({ minLength: 1, maxLength: 100 }),
    });
    fc.assert(
      fc.property(text, fc.array(signature, { minLength: 1, maxLength: 16 }), (t, signatures) => {
        expect(parseNote(formatNote({ text: t, signatures }))).toEqual({ text: t, signatures });
      }),
    );
  });

  it("answers hostile bytes with a typed refusal and nothing else", () => {
    const mutate = fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 }));
    const good = formatNote({
      text: "a\nb\n",
      signatures: [{ name: "n", keyId: "01020304", signature: new Uint8Array(64) }],
    });
    const refusal = (bytes: Uint8Array): void => {
      try {
        parseNote(bytes);
      } catch (error) {
        expect(error).toMatchObject({ code: "note-invalid" });
      }
    };
    fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), refusal));
    fc.assert(
      fc.property(fc.array(mutate, { maxLength: 5 }), (edits) => {
        const bytes = good.slice();
        for (const [at, value] of edits) bytes[at % bytes.length] = value;
        refusal(bytes);
      }),
    );
    for (const text of [
      "",
      "text\n",
      "text\n\n",
      "text\n\n- n AAAAAAA=\n",
      "text\n\n\u2014 n AAAAAAAA",
      "text\n\n\u2014 n+m AAAAAAAA\n",
      "text\n\n\u2014 n AAAAA\n",
      "text\n\n\u2014 n AAAA\n",
      "te\rxt\n\n\u2014 n AAAAAAAA\n",
      "text\n\n\u2014 n AAAAAAAA\nmore\n",
    ]) {
      expect(() => parseNote(utf8(text)), JSON.stringify(text)).toThrow(
        expect.objectContaining({ code: "note-invalid" }),
      );
    }
    expect(() => parseNote(new Uint8Array(300_000).fill(0x61))).toThrow(
      expect.objectContaining({ code: "note-invalid" }),
    );
    expect(() => parseNote(Uint8Array.of(0xff, 0x0a, 0x0a))).toThrow(expect.objectContaining({ code: "note-invalid" }));
  });

  it("splits at the last blank line, passes unknown keys over, refuses a known key's bad line", async () => {
    const stranger = { name: "stranger", keyId: "00000000", signature: new Uint8Array(64) };
    const text = "one\n\n\u2014 looks like a signature\n\ntwo\n";
    const own = { name: ORIGIN, keyId: logKey.keyId, signature: await log.signer.sign(utf8(text)) };
    const parsed = parseNote(formatNote({ text, signatures: [stranger, own] }));
    expect(parsed.text).toBe(text);
    expect(await verifyNote(parsed, [logKey], opensslVerify)).toHaveLength(1);
    const bad = { ...own, signature: new Uint8Array(64) };
    const two = parseNote(formatNote({ text, signatures: [own, bad] }));
    await expect(verifyNote(two, [logKey], opensslVerify)).rejects.toMatchObject({ code: "note-invalid" });
  });
});

describe("a second line by a P-256 key", () => {
  const second = testKey("p256");
  const key = noteKey(ORIGIN, KEY_TYPE.ecdsa, second.spki);

  it("stands below the log's own, with an ID that is of the key alone", async () => {
    const note = await signCheckpoint({ origin: ORIGIN, size: 7, root }, log.signer, second);
    expect(
      fromUtf8(note).startsWith(fromUtf8(await signCheckpoint({ origin: ORIGIN, size: 7, root }, log.signer))),
    ).toBe(true);
    expect(key.keyId).toBe(sha256Hex(second.spki).slice(0, 8));
    expect(parseVkey(formatVkey(key))).toEqual(key);
    expect(formatVkey(key)).toMatch(/\+Aj/);
    const opened = await openCheckpoint(note, logKey, opensslVerify, [key]);
    expect(opened.signatures.map((s) => s.key)).toEqual([logKey, key]);
    // Who doesn't know it passes it over; who does refuses a wrong one.
    expect((await openCheckpoint(note, logKey, opensslVerify)).signatures).toHaveLength(1);
    const { text, signatures } = parseNote(note);
    const bent = Uint8Array.from(signatures[1]!.signature, (byte, i) => (i === 20 ? byte ^ 1 : byte));
    const forged = formatNote({ text, signatures: [signatures[0]!, { ...signatures[1]!, signature: bent }] });
    await expect(openCheckpoint(forged, logKey, opensslVerify, [key])).rejects.toMatchObject({ code: "note-invalid" });
  });

  it("is no log's signature by itself", async () => {
    const note = formatNote(await signNote(formatCheckpoint({ origin: ORIGIN, size: 7, root }), ORIGIN, second));
    await expect(openCheckpoint(note, logKey, opensslVerify, [key])).rejects.toMatchObject({
      code: "checkpoint-invalid",
    });
    await expect(openCheckpoint(note, key, opensslVerify)).rejects.toMatchObject({ code: "checkpoint-invalid" });
    expect(() => parsePolicy(`log ${formatVkey(key)}\nquorum none\n`)).toThrow(/type 2/);
    expect(() => noteKey(ORIGIN, KEY_TYPE.ecdsa, log.signer.spki)).toThrow(/P-256/);
  });
});

describe("verifier keys", () => {
  it("round-trips, and refuses a key ID that doesn't fit", () => {
    expect(parseVkey(formatVkey(logKey))).toEqual(logKey);
    const witness = noteKey("w", KEY_TYPE.cosignature, log.raw);
    expect(parseVkey(formatVkey(witness))).toEqual(witness);
    expect(witness.keyId).not.toBe(noteKey("w", KEY_TYPE.ed25519, log.raw).keyId);
    const vkey = formatVkey(logKey);
    for (const bad of [
      vkey.replace(logKey.keyId, "00000000"),
      `other${vkey}`,
      vkey.slice(0, -4),
      "name",
      "",
      `n+00000000+${toBase64(Uint8Array.of(2, 1, 2))}`,
    ]) {
      expect(() => parseVkey(bad), bad).toThrow(expect.objectContaining({ code: "note-invalid" }));
    }
    const p256 = new Uint8Array(91);
    expect(() => ed25519Raw(p256)).toThrow(expect.objectContaining({ code: "key-unsupported" }));
  });
});

describe("checkpoints", () => {
  it("opens what the log signed, and nothing else", async () => {
    const note = await signCheckpoint({ origin: ORIGIN, size: 3, root }, log.signer);
    expect(await openCheckpoint(note, logKey, opensslVerify)).toMatchObject({ origin: ORIGIN, size: 3, root });
    const refused = { code: expect.stringMatching(/^(note|checkpoint)-invalid$/) };
    const other = party();
    const sameName = noteKey(ORIGIN, KEY_TYPE.ed25519, other.raw);
    await expect(openCheckpoint(note, sameName, opensslVerify)).rejects.toMatchObject(refused);
    const otherName = noteKey("other/log", KEY_TYPE.ed25519, log.raw);
    await expect(openCheckpoint(note, otherName, opensslVerify)).rejects.toMatchObject(refused);
    const bent = note.slice();
    bent[ORIGIN.length + 1] = 0x34;
    await expect(openCheckpoint(bent, logKey, opensslVerify)).rejects.toMatchObject(refused);
    // The log's own key under the witness type doesn't make it a log signature.
    const witnessed = cosign(note, ORIGIN, log, 1);
    const onlyCosigned = parseNote(witnessed.note);
    const stripped = formatNote({ ...onlyCosigned, signatures: onlyCosigned.signatures.slice(1) });
    await expect(openCheckpoint(stripped, logKey, opensslVerify, [witnessed.key])).rejects.toMatchObject(refused);
  });

  it("accepts one spelling", () => {
    const text = formatCheckpoint({ origin: ORIGIN, size: 12, root });
    expect(parseCheckpoint(text)).toEqual({ origin: ORIGIN, size: 12, root });
    for (const bad of [
      text.replace("12", "012"),
      text.replace("12", "-1"),
      text.replace("12", "1e3"),
      text.replace("12", "99999999999999999"),
      `${text}extension\n`,
      text.slice(0, -1),
      text.replace(ORIGIN, ""),
      text.replace(/.{4}=\n$/, "=\n"),
    ]) {
      expect(() => parseCheckpoint(bad), JSON.stringify(bad)).toThrow(
        expect.objectContaining({ code: "checkpoint-invalid" }),
      );
    }
  });
});

describe("policies", () => {
  const witnesses = ["company-x/w", "technician-z/w", "outside/w"].map((name) => ({ name, party: party() }));
  const keys = witnesses.map(({ name, party: p }) => noteKey(name, KEY_TYPE.cosignature, p.raw));

  it("counts cosignatures against the quorum", async () => {
    let note = await signCheckpoint({ origin: ORIGIN, size: 3, root }, log.signer);
    const none = parsePolicy(formatPolicy(logKey));
    expect((await openUnderPolicy(note, none, opensslVerify)).size).toBe(3);
    const two = parsePolicy(formatPolicy(logKey, keys, 2));
    await expect(openUnderPolicy(note, two, opensslVerify)).rejects.toMatchObject({ code: "checkpoint-invalid" });
    note = cosign(note, witnesses[0]!.name, witnesses[0]!.party, 1_790_000_000).note;
    // The same witness twice is one witness.
    const twice = cosign(note, witnesses[0]!.name, witnesses[0]!.party, 1_790_000_001).note;
    await expect(openUnderPolicy(twice, two, opensslVerify)).rejects.toMatchObject({ code: "checkpoint-invalid" });
    note = cosign(note, witnesses[2]!.name, witnesses[2]!.party, 1_790_000_002).note;
    const opened = await openUnderPolicy(note, two, opensslVerify);
    expect(opened.signatures.map((s) => s.time)).toEqual([undefined, 1_790_000_000, 1_790_000_002]);
    const all = parsePolicy(formatPolicy(logKey, keys));
    await expect(openUnderPolicy(note, all, opensslVerify)).rejects.toMatchObject({ code: "checkpoint-invalid" });
  });

  it("evaluates nested groups", () => {
    const text =
      `# example\n\tlog ${formatVkey(logKey)} https://log.example/\n\n` +
      keys.map((key, i) => `witness W${i} ${formatVkey(key)}\n`).join("") +
      "group some any W0 W1\ngroup both all some W2\nquorum both\n";
    const policy = parsePolicy(text);
    expect(policy.groups.get("both")).toEqual({ threshold: 2, members: ["some", "W2"] });
  });

  it("refuses what the specification forbids", () => {
    const l = `log ${formatVkey(logKey)}\n`;
    const w = `witness A ${formatVkey(keys[0]!)}\n`;
    const self = noteKey("self", KEY_TYPE.cosignature, log.raw);
    for (const bad of [
      l,
      `${l}quorum none`,
      `${l}quorum A\n`,
      `${l}${w}quorum A\nquorum A\n`,
      `${l}${l}quorum none\n`,
      `${l}${w}${w}quorum A\n`,
      `${l}${w}witness B ${formatVkey(keys[0]!)}\nquorum A\n`,
      `${l}${w}group g all A A\nquorum g\n`,
      `${l}${w}group g 2 A\nquorum g\n`,
      `${l}${w}group g 0 A\nquorum g\n`,
      `${l}${w}group g all none\nquorum g\n`,
      `${l}${w}group g any A\ngroup h any A\nquorum h\n`,
      `${l}group g any A\n${w}quorum g\n`,
      `${l}witness none ${formatVkey(keys[0]!)}\nquorum none\n`,
      `${l}witness A ${formatVkey(logKey)}\nquorum A\n`,
      `log ${formatVkey(keys[0]!)}\nquorum none\n`,
      `${l}witness own ${formatVkey(self)}\nquorum own\n`,
      `${l}quorum none\r\n`,
      `${l}unknown x\nquorum none\n`,
      `${l}log nonsense\nquorum none\n`,
      "x".repeat(70_000),
    ]) {
      expect(() => parsePolicy(bad), bad.slice(0, 120)).toThrow(expect.objectContaining({ code: "policy-invalid" }));
    }
  });
});

describe("tlog-proofs", () => {
  it("round-trips", async () => {
    const checkpoint = await signCheckpoint({ origin: ORIGIN, size: 1000, root }, log.signer);
    const hashes = fc.array(fc.uint8Array({ minLength: 32, maxLength: 32 }), { maxLength: 40 });
    const extra = fc.option(fc.uint8Array({ minLength: 1, maxLength: 2000 }), { nil: undefined });
    fc.assert(
      fc.property(fc.nat(), hashes, extra, (index, path, extraBytes) => {
        const proof = { index, path, checkpoint, ...(extraBytes === undefined ? {} : { extra: extraBytes }) };
        const text = formatTlogProof(proof);
        expect(parseTlogProof(text)).toEqual(proof);
        expect(new TextDecoder().decode(text)).toMatch(/^c2sp\.org\/tlog-proof@v1\n(extra .+\n)?index \d+\n/);
      }),
    );
  });

  it("refuses what isn't one", async () => {
    const checkpoint = await signCheckpoint({ origin: ORIGIN, size: 1000, root }, log.signer);
    const good = new TextDecoder().decode(formatTlogProof({ index: 3, path: [root], checkpoint }));
    for (const bad of [
      "",
      good.replace("@v1", "@v2"),
      good.replace("index 3", "index 03"),
      good.replace("index 3\n", ""),
      good.replace(toBase64(root), toBase64(root.subarray(1))),
      good.replace("index 3\n", `extra ${toBase64(new Uint8Array(49_001))}\nindex 3\n`),
      good.slice(0, good.indexOf("\n\n") + 1),
      good.replace(toBase64(root), Array(65).fill(toBase64(root)).join("\n")),
    ]) {
      expect(() => parseTlogProof(utf8(bad))).toThrow(expect.objectContaining({ kind: "unverified" }));
    }
  });
});
