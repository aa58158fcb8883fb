import fc from "fast-check";
import { generateKeyPairSync, sign } from "node:crypto";
import { describe, expect, it } from "vitest";
import { fromUtf8, utf8 } from "../domain/bytes.ts";
import { sha256Hex } from "../domain/hash.ts";
import type { Signer } from "../domain/signing.ts";
import { webCryptoVerify } from "../pki/verify.ts";
import { parseDsse, PAYLOAD_TYPES, signDsse, verifyDsse } from "./dsse.ts";
import { buildStatement, parseEntry, parseStatement, type Act } from "./statement.ts";

const digest = "ab".repeat(32);
const act: Act<"built"> = {
  type: "built",
  subject: [{ name: "dev-1", digest: { sha256: digest } }],
  origin: "countersign.example/factory-y",
  party: "factory-y",
  retryKey: digest,
  time: "2026-07-01T00:00:00.000Z",
  grant: { origin: "countersign.example/company-x", leafHash: digest },
  prev: [],
  blobs: [],
  fields: {
    lot: "lot-1",
    slot: 1,
    spki: "AAAA",
    csrSha256: digest,
    intake: { kind: "manifest", digest, index: 0, path: [] },
  },
};

const keyset: Act<"hub-registered"> = {
  ...act,
  type: "hub-registered",
  fields: { hub: "hub", caSha256: digest, codeSha256: digest },
};

function throwawaySigner(): { signer: Signer; keyId: string } {
  const pair = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const spki = new Uint8Array(pair.publicKey.export({ type: "spki", format: "der" }));
  const algorithm = "ecdsa-p256-sha256" as const;
  return {
    signer: { spki, algorithm, sign: (m) => Promise.resolve(new Uint8Array(sign("sha256", m, pair.privateKey))) },
    keyId: sha256Hex(spki),
  };
}

describe("statements", () => {
  it("round-trips, always the same bytes", () => {
    const bytes = buildStatement(act);
    expect(parseStatement(bytes)).toEqual(act);
    expect(buildStatement(parseStatement(bytes) as Act)).toEqual(bytes);
  });

  const edits: [string, (text: string) => string][] = [
    ["an unknown field", (t) => t.replace('"slot":1', '"slot":1,"zz":1')],
    ["an unknown common field", (t) => t.replace('"time"', '"extra":1,"time"')],
    ["an unknown type", (t) => t.replace("act:built:v1", "act:sold:v1")],
    ["another schema version", (t) => t.replace("act:built:v1", "act:built:v2")],
    ["white space", (t) => t.replace('"slot":1', '"slot": 1')],
    ["a repeated key", (t) => t.replace('"slot":1', '"slot":1,"slot":1')],
    [
      "another key order",
      (t) => t.replace(/\{"_type":("[^"]+"),/, "{").replace(/\}$/, ',"_type":"https://in-toto.io/Statement/v1"}'),
    ],
    ["an upper-case digest", (t) => t.replaceAll(digest, digest.toUpperCase())],
    ["a local time", (t) => t.replace("00:00.000Z", "00:00.000+02:00")],
    ["a prototype's name as type", (t) => t.replace("act:built:v1", "act:constructor:v1")],
  ];
  it.each(edits)("refuses %s", (_name, edit) => {
    const text = fromUtf8(buildStatement(act));
    expect(edit(text)).not.toBe(text);
    expect(() => parseStatement(utf8(edit(text)))).toThrowError(expect.objectContaining({ code: "act-invalid" }));
  });

  it("refuses any mutated byte or reads a valid act, never throws something else", () => {
    const bytes = buildStatement(act);
    fc.assert(
      fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        const mutated = bytes.slice();
        mutated[at]! ^= flip;
        try {
          parseStatement(mutated);
        } catch (error) {
          expect(error).toMatchObject({ name: "CountersignError" });
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe("entries", () => {
  it("takes a line record bare and a signed act in its envelope, not the other way round", async () => {
    const { signer, keyId } = throwawaySigner();
    expect(parseEntry(buildStatement(act)).act.type).toBe("built");
    const signed = await signDsse(PAYLOAD_TYPES.statement, buildStatement(keyset), signer, keyId);
    expect(parseEntry(signed).dsse).toBeDefined();
    const signedLine = await signDsse(PAYLOAD_TYPES.statement, buildStatement(act), signer, keyId);
    expect(() => parseEntry(signedLine)).toThrow(/line record/);
    expect(() => parseEntry(buildStatement(keyset))).toThrow(/must be signed/);
  });

  it("verifies the one key that signed, over type and payload", async () => {
    const { signer, keyId } = throwawaySigner();
    const other = throwawaySigner();
    const bytes = await signDsse(PAYLOAD_TYPES.statement, buildStatement(keyset), signer, keyId);
    const opened = parseDsse(bytes, PAYLOAD_TYPES.statement);
    const key = { spki: signer.spki, keyId, algorithm: signer.algorithm };
    expect(await verifyDsse(opened, key, webCryptoVerify)).toBe(true);
    expect(await verifyDsse(opened, { ...key, spki: other.signer.spki }, webCryptoVerify)).toBe(false);
    expect(await verifyDsse(opened, { ...key, keyId: other.keyId }, webCryptoVerify)).toBe(false);
    const retyped = { ...opened, envelope: { ...opened.envelope, payloadType: PAYLOAD_TYPES.manifest } };
    expect(await verifyDsse(retyped, key, webCryptoVerify)).toBe(false);
    expect(() => parseDsse(bytes, PAYLOAD_TYPES.message)).toThrowError(
      expect.objectContaining({ code: "envelope-invalid" }),
    );
  });
});
