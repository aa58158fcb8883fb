import { beforeAll, describe, expect, it } from "vitest";
import { TestChains, type TestChain } from "../../test/support/chains.ts";
import { issue, throwawayKey, throwawayRoot } from "../../test/support/issuing.ts";
import { concatBytes, fromUtf8, utf8 } from "../domain/bytes.ts";
import { pemEncode } from "../pki/pem.ts";
import { checkChainFor, checkChainOrder, decodeChain, deviceChain, encodeChain, findChains } from "./chain.ts";

let one: TestChain;
let other: TestChain;
beforeAll(async () => {
  const chains = await TestChains.create();
  one = await chains.leaf("device-1", 3);
  other = await chains.leaf("device-2", 3);
});

describe("chain bytes", () => {
  it("aren't made of a leaf and a CA of the same name that has another key", () => {
    const [ca, twin] = [throwawayRoot({ commonName: "CA" }), throwawayRoot({ commonName: "CA" })];
    const leaf = issue(ca, "ldevid", { commonName: "device-1" }, throwawayKey().spki);
    expect(() => encodeChain([leaf.der, ca.certificate.der])).not.toThrow();
    expect(() => encodeChain([leaf.der, twin.certificate.der])).toThrow(
      expect.objectContaining({ code: "certificate-invalid" }),
    );
  });

  it("are PEM with one final NUL, and decode to the same certificates", () => {
    const bytes = encodeChain(one.chain);
    expect(bytes.at(-1)).toBe(0);
    expect(bytes.subarray(0, -1).includes(0)).toBe(false);
    expect(fromUtf8(bytes).match(/BEGIN CERTIFICATE/g)).toHaveLength(3);
    expect(decodeChain(bytes)).toEqual({ chain: one.chain, encoding: "pem-nul" });
    expect(decodeChain(bytes.subarray(0, -1)).encoding).toBe("pem");
    expect(decodeChain(concatBytes(...one.chain))).toEqual({ chain: one.chain, encoding: "der" });
  });

  it("refuses a chain in the wrong order, an empty one and one that is too long", () => {
    expect(() => checkChainOrder(one.chain.toReversed())).toThrow(
      expect.objectContaining({ code: "certificate-invalid" }),
    );
    expect(() => encodeChain([])).toThrow(expect.objectContaining({ code: "certificate-invalid" }));
    expect(() => encodeChain(Array(11).fill(one.root))).toThrow(
      expect.objectContaining({ code: "certificate-invalid" }),
    );
  });

  it.each([
    ["nothing", new Uint8Array(0)],
    ["a NUL", Uint8Array.of(0)],
    ["text", utf8("hello")],
    ["cut off DER", Uint8Array.of(0x30, 0x82, 0x01, 0x00, 0x05)],
    ["a PEM block that is no certificate", utf8(pemEncode("CERTIFICATE", Uint8Array.of(0x30, 0)))],
  ])("doesn't take %s for a chain", (_what, bytes) => {
    expect(() => decodeChain(bytes)).toThrow(expect.objectContaining({ code: "image-no-chain" }));
  });

  it("tells another device's chain by its key", () => {
    checkChainFor(one.spki, one.chain);
    expect(() => checkChainFor(one.spki, other.chain)).toThrow(expect.objectContaining({ code: "read-back-mismatch" }));
  });
});

describe("findChains", () => {
  it("finds runs of certificates and tells the device's from the firmware's trust anchors", () => {
    const anchors = utf8(pemEncode("CERTIFICATE", one.root) + pemEncode("CERTIFICATE", one.root) + "\0");
    const chain = encodeChain(one.chain);
    const memory = concatBytes(utf8("-----BEGIN CERTIFICATE-----\0junk\0"), anchors, utf8("code"), chain, utf8("more"));
    const found = findChains(memory, 0x1000);
    expect(found.map(({ leafIsDevice }) => leafIsDevice)).toEqual([false, true]);
    const device = deviceChain(found)!;
    expect(device.bytes).toEqual(chain);
    expect(device.address).toBe(0x1000 + 33 + anchors.length + 4);
    expect(deviceChain([...found, ...findChains(encodeChain(other.chain), 0)])).toBeUndefined();
    expect(deviceChain(found.slice(0, 1))).toBe(found[0]);
  });

  it("passes over what only looks like a chain", () => {
    const markers = utf8("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n");
    expect(findChains(markers, 0)).toEqual([]);
    expect(findChains(utf8("-----BEGIN CERTIFICATE-----\nAAAA"), 0)).toEqual([]);
    const cut = encodeChain(one.chain).subarray(0, -40);
    const text = fromUtf8(encodeChain(one.chain)).split("-----END CERTIFICATE-----\n");
    const torn = utf8([text[0]!, text[1]! + text[2]!, text[3]!].join("-----END CERTIFICATE-----\n"));
    expect(
      findChains(torn, 0).map(({ chain }) => chain.length),
      "from the third certificate on",
    ).toEqual([1]);
    expect(findChains(cut, 0), "a damaged chain is no shorter chain").toEqual([]);
  });

  it.each([
    ["begins without ends", "-----BEGIN CERTIFICATE-----"],
    ["empty blocks in a row", "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"],
    ["ends without begins", "-----END CERTIFICATE-----"],
  ])("looks through an image of %s in a moment", (_what, text) => {
    const memory = utf8(text.repeat(Math.ceil((8 << 20) / text.length)));
    const began = performance.now();
    expect(findChains(memory, 0)).toEqual([]);
    expect(performance.now() - began, "ms").toBeLessThan(5000);
  });

  it("takes no part of a run that is longer than any chain", () => {
    const block = encodeChain([one.chain[0]!], "pem");
    const run = concatBytes(...Array.from({ length: Math.ceil(0xe000 / block.length) + 1 }, () => block));
    expect(findChains(run, 0)).toEqual([]);
  });
});
