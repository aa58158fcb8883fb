import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { concatBytes, fromHex, utf8 } from "../lib/domain/bytes.ts";
import { spkiPem } from "../lib/pki/spki.ts";
import { softhsmDir, tempDir, tool } from "../test/support/index.ts";
import {
  createPinFile,
  describeKeys,
  initToken,
  openToken,
  roleOfLabel,
  type Token,
  type TokenConfig,
} from "./index.ts";

let config: TokenConfig;
let token: Token;
beforeAll(async () => {
  const { module } = softhsmDir();
  const pin = await createPinFile(join(tempDir("image-key"), "pin"));
  await initToken({ module, label: "site", pin });
  config = { module, uri: "pkcs11:token=site", pin };
  token = await openToken(config);
});
afterAll(() => token.close());

const IMAGE = concatBytes(fromHex("3db8f396"), new Uint8Array(1000).fill(7));
const refused = expect.objectContaining({ code: "unauthorized" });

describe("an image-signing key", () => {
  it("has its role by its label, in the token", async () => {
    expect(["image", "IMAGE-2027", "images", "act"].map(roleOfLabel)).toEqual(["image", "image", "signing", "signing"]);
    await token.generateImageKey({ label: "image", algorithm: "ec-p256" });
    expect(await describeKeys(config)).toMatchObject([
      { label: "image", role: "image", sensitive: true, extractable: false, local: true },
    ]);
  });

  it("is nobody's signer or CA key, and the other way round", async () => {
    await expect(token.signer("image")).rejects.toEqual(refused);
    await expect(token.caKey("image")).rejects.toEqual(refused);
    await expect(token.generateKey({ label: "image-2", algorithm: "ec-p256" })).rejects.toEqual(refused);
    await expect(token.generateImageKey({ label: "act", algorithm: "ec-p256" })).rejects.toEqual(refused);
    await token.generateKey({ label: "act", algorithm: "ec-p256" });
    await expect(token.imageKey("act")).rejects.toEqual(refused);
  });

  it("signs an image, as openssl sees it, and nothing that could be another record", async () => {
    const key = await token.imageKey("image");
    const folder = tempDir("openssl");
    writeFileSync(join(folder, "key.pem"), spkiPem(key.spki));
    writeFileSync(join(folder, "signature"), await key.sign(IMAGE));
    writeFileSync(join(folder, "image"), IMAGE);
    const args = ["dgst", "-sha256", "-verify", "key.pem", "-signature", "signature", "image"];
    expect(execFileSync(tool("openssl"), args, { cwd: folder, encoding: "utf8" })).toContain("Verified OK");
    for (const message of [
      new Uint8Array(0),
      fromHex("3082"),
      utf8("DSSEv1 "),
      IMAGE.subarray(1),
      IMAGE.subarray(0, 3),
    ]) {
      await expect(key.sign(message)).rejects.toEqual(refused);
    }
  });
});
