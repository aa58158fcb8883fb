import { generateKeyPairSync, sign } from "node:crypto";
import { describe, expect, it } from "vitest";
import { nodeVerifyAside } from "../../hsm/verify.ts";
import type { VerifySignature } from "../../lib/domain/signing.ts";
import { rememberingVerify } from "./signatures.ts";

type Check = Parameters<VerifySignature>[0];

function signed(text: string): Check {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const message = Buffer.from(text);
  const spki = new Uint8Array(publicKey.export({ type: "spki", format: "der" }));
  return { spki, algorithm: "ecdsa-p256-sha256", message, signature: sign("sha256", message, privateKey) };
}

describe("remembering good signatures", () => {
  it("checks each once, and takes nothing that differs in any part from one that was good", async () => {
    let checked = 0;
    const verify = rememberingVerify((check) => (checked++, nodeVerifyAside(check)));
    const good = signed("one");
    expect([await verify(good), await verify({ ...good, message: Buffer.from("one") })]).toEqual([true, true]);
    expect(checked).toBe(1);
    const others: Partial<Check>[] = [
      { message: Buffer.from("two") },
      { signature: signed("one").signature },
      { spki: signed("one").spki },
      { algorithm: "ecdsa-p256-sha384" },
      { message: Buffer.from("on"), signature: Buffer.concat([Buffer.from("e"), good.signature]) },
    ];
    for (const other of others) expect(await verify({ ...good, ...other })).toBe(false);
    expect(checked).toBe(1 + others.length);
    // A bad one is looked at each time.
    expect(await verify({ ...good, message: Buffer.from("two") })).toBe(false);
    expect(checked).toBe(2 + others.length);
    expect(verify.remembered()).toBe(1);
  });

  it("keeps no more than it may, those asked for last", async () => {
    let checked = 0;
    const verify = rememberingVerify(() => (checked++, true), 3);
    const [a, b, c, d] = ["a", "b", "c", "d"].map(signed) as [Check, Check, Check, Check];
    for (const one of [a, b, c, a, d]) await verify(one);
    expect([checked, verify.remembered()]).toEqual([4, 3]);
    await verify(a);
    expect(checked).toBe(4);
    await verify(b);
    expect(checked).toBe(5);
  });
});
