import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { opensslVerify, testKey } from "../../test/support/memory-log.ts";
import { toHex, utf8 } from "../domain/bytes.ts";
import { openCheckpoint, signCheckpoint } from "./checkpoint.ts";
import {
  cosign,
  formatSignatureLines,
  parseSignatureLines,
  verifyCosignatures,
  withSignatures,
} from "./cosignature.ts";
import { ed25519Raw, KEY_TYPE, MAX_COSIGNATURE_TIME, noteKey, parseNote, type NoteSignature } from "./note.ts";
import { emptyRoot } from "./tree.ts";

const ORIGIN = "factory-y.example/log";
const log = testKey("ed25519");
const logKey = noteKey(ORIGIN, KEY_TYPE.ed25519, ed25519Raw(log.spki));
const witness = (name: string) => {
  const signer = testKey("ed25519");
  return { name, signer, key: noteKey(name, KEY_TYPE.cosignature, ed25519Raw(signer.spki)) };
};
const [one, two] = [witness("w.example/one"), witness("w.example/two")];
const checkpointNote = (size: number) => signCheckpoint({ origin: ORIGIN, size, root: emptyRoot() }, log);

describe("cosignatures", () => {
  let note: Uint8Array;
  let text: string;
  beforeAll(async () => {
    note = await checkpointNote(7);
    text = parseNote(note).text;
  });

  it("reads the specification's own example", async () => {
    // c2sp.org/tlog-cosignature v1.0.1, with the key that its signature belongs to unknown: form and time alone.
    const line =
      "\u2014 witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n";
    const [parsed] = parseSignatureLines(utf8(line));
    expect(parsed).toMatchObject({ name: "witness.example.com/w1", keyId: "8d66cf3f" });
    expect(new DataView(parsed!.signature.buffer).getBigUint64(parsed!.signature.byteOffset)).toBe(1679315147n);
    expect(formatSignatureLines([parsed!])).toBe(line);
  });

  it("give their witness and time, once each, and pass over who isn't known", async () => {
    const lines = [
      await cosign(text, one.name, one.signer, 1_700_000_000),
      await cosign(text, two.name, two.signer, 1_700_000_001),
      await cosign(text, one.name, one.signer, 1_700_000_002),
    ];
    const found = await verifyCosignatures(text, lines, [one.key, logKey], opensslVerify);
    expect(found.map(({ key, time }) => [key.name, time])).toEqual([[one.name, 1_700_000_000]]);
    expect(found[0]?.line).toBe(lines[0]);
    expect(await verifyCosignatures(text, lines, [], opensslVerify)).toEqual([]);
  });

  it("are refused over another text, with another time, or by another key of the same name and ID", async () => {
    const line = await cosign(text, one.name, one.signer, 1_700_000_000);
    const refused = { code: "note-invalid" };
    const check = (given: string, lines: NoteSignature[]) => verifyCosignatures(given, lines, [one.key], opensslVerify);
    await expect(check(text.replace("\n7\n", "\n8\n"), [line])).rejects.toMatchObject(refused);
    const later = { ...line, signature: Uint8Array.from(line.signature, (byte, i) => (i === 7 ? byte ^ 1 : byte)) };
    await expect(check(text, [later])).rejects.toMatchObject(refused);
    const forged = { ...(await cosign(text, one.name, two.signer, 1)), keyId: one.key.keyId };
    await expect(check(text, [forged])).rejects.toMatchObject(refused);
    await expect(check(text, [{ ...line, signature: line.signature.subarray(0, 64) }])).rejects.toMatchObject(refused);
  });

  it("go below the log's own line, whose bytes stay, and a later one takes the earlier one's place", async () => {
    const first = withSignatures(note, [await cosign(text, one.name, one.signer, 100)]);
    const both = withSignatures(first, [
      await cosign(text, two.name, two.signer, 150),
      await cosign(text, one.name, one.signer, 200),
    ]);
    expect(toHex(both).startsWith(toHex(note))).toBe(true);
    const opened = await openCheckpoint(both, logKey, opensslVerify, [one.key, two.key]);
    expect(opened.signatures.map(({ key, time }) => [key.name, time])).toEqual([
      [ORIGIN, undefined],
      [two.name, 150],
      [one.name, 200],
    ]);
  });

  it("have times that can be told: none before 1970, none that no calendar has", async () => {
    for (const time of [-1, 1.5, MAX_COSIGNATURE_TIME + 1, 2 ** 53, Number.NaN]) {
      await expect(cosign(text, one.name, one.signer, time)).rejects.toMatchObject({ code: "note-invalid" });
    }
    await fc.assert(
      fc.asyncProperty(fc.nat({ max: MAX_COSIGNATURE_TIME }), async (time) => {
        const lines = parseSignatureLines(utf8(formatSignatureLines([await cosign(text, one.name, one.signer, time)])));
        const [found] = await verifyCosignatures(text, lines, [one.key], opensslVerify);
        expect(found?.time).toBe(time);
      }),
      { numRuns: 50 },
    );
  });

  it("answers nothing but note-invalid to any bytes", () => {
    const good = utf8(
      "\u2014 w AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
    );
    const parse = (bytes: Uint8Array): void => {
      try {
        parseSignatureLines(bytes);
      } catch (error) {
        expect(error).toMatchObject({ code: "note-invalid" });
      }
    };
    fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), parse), { numRuns: 1000 });
    fc.assert(
      fc.property(fc.nat({ max: good.length - 1 }), fc.nat({ max: 255 }), (at, byte) => {
        parse(Uint8Array.from(good, (b, i) => (i === at ? byte : b)));
      }),
      { numRuns: 1000 },
    );
    expect(() => parseSignatureLines(utf8(""))).toThrow(/newline/);
  });
});
