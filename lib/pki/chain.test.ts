import { randomBytes } from "node:crypto";
import { describe, expect, it } from "vitest";
import { issue, issueCa, throwawayKey, throwawayRoot } from "../../test/support/issuing.ts";
import { toHex } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { parseCertificatesPem } from "./certificate.ts";
import { chainPem, orderChain } from "./chain.ts";
import { newSerial, serialHex } from "./serial.ts";

const root = throwawayRoot({ commonName: "Root" });
const y = issueCa(root, { commonName: "Y" }, { pathLen: 1 });
const z = issueCa(y, { commonName: "Z" });
const leaf = issue(z, "idevid", { commonName: "dev-1" }, throwawayKey().spki);
const chain = [leaf, z.certificate, y.certificate, root.certificate];

describe("chains", () => {
  it("are put in order from any order", () => {
    for (const order of [
      [0, 1, 2, 3],
      [3, 2, 1, 0],
      [2, 0, 3, 1],
      [1, 3, 0, 2],
    ]) {
      expect(orderChain(order.map((i) => chain[i]!.der)).map((one) => one.subject.cn)).toEqual([
        "dev-1",
        "Z",
        "Y",
        "Root",
      ]);
    }
    expect(orderChain([leaf])).toEqual([leaf]);
  });

  it("are refused when they aren't one chain", () => {
    const other = issue(z, "idevid", { commonName: "dev-2" }, throwawayKey().spki);
    expect(() => orderChain([])).toThrow(CountersignError);
    expect(() => orderChain([leaf, other, z.certificate])).toThrow(/2 leaves/);
    expect(() => orderChain([leaf, y.certificate])).toThrow(/2 leaves/);
    expect(() => orderChain([leaf, leaf])).toThrow(CountersignError);
    expect(() => orderChain(Array.from({ length: 11 }, () => leaf))).toThrow(/1 to 10/);
  });

  it("lose their root in PEM, and nothing else", () => {
    const text = chainPem(chain);
    expect(parseCertificatesPem(text).map((one) => one.subject.cn)).toEqual(["dev-1", "Z", "Y"]);
    expect(chainPem(chain.slice(0, 3).map((one) => one.der))).toBe(text);
  });
});

describe("serial numbers", () => {
  it("are positive, of 16 octets, and differ", () => {
    const serials = Array.from({ length: 200 }, () => newSerial((length) => randomBytes(length)));
    for (const serial of serials) {
      expect(serial).toHaveLength(16);
      expect(serial[0]! & 0xc0).toBe(0x40);
    }
    expect(new Set(serials.map(toHex)).size).toBe(200);
    expect(newSerial(() => new Uint8Array(16).fill(255))[0]).toBe(0x7f);
    expect(() => newSerial(() => new Uint8Array(15))).toThrow(RangeError);
  });

  it("have one form in records", () => {
    expect(serialHex(Uint8Array.of(0, 0x80, 1))).toBe("8001");
    expect(serialHex(Uint8Array.of(0))).toBe("00");
  });
});
