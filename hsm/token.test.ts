import { execFile, execFileSync } from "node:child_process";
import { createHash, createPublicKey, randomBytes } from "node:crypto";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { inspect, promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { KeyAlgorithm } from "../lib/domain/signing.ts";
import { PROJECT_ROOT, type SoftHsm, softhsmDir, tempDir, tool } from "../test/support/index.ts";
import {
  type PinSource,
  type Token,
  attemptExtraction,
  createPinFile,
  describeKeys,
  finalizeModule,
  initToken,
  listTokens,
  nodeVerify,
  openToken,
  tokenExists,
} from "./index.ts";
import { CK, newPkcs11Api } from "./cryptoki.ts";
import { loadModule } from "./module.ts";
import { listSlots } from "./slots.ts";

const ALGORITHMS: readonly KeyAlgorithm[] = ["ec-p256", "ec-p384", "ed25519", "rsa-2048", "rsa-3072", "rsa-4096"];
const URI = "pkcs11:token=factory-y";

let hsm: SoftHsm;
let dir: string;
let pin: PinSource;
let token: Token;
const config = (over: object = {}) => ({ module: hsm.module, uri: URI, pin, ...over });
const pinFile = (name: string, content: string): PinSource => {
  writeFileSync(join(dir, name), content, { mode: 0o600 });
  return { file: join(dir, name) };
};

beforeAll(async () => {
  hsm = softhsmDir();
  dir = tempDir("hsm");
  pin = await createPinFile(join(dir, "factory-y.pin"));
  await initToken({ module: hsm.module, label: "factory-y", pin, soPin: await createPinFile(join(dir, "so.pin")) });
  token = await openToken(config());
});

afterAll(async () => {
  await token.close();
});

describe("tokens", () => {
  it("are listed without a PIN, and are made once", async () => {
    expect(listTokens(hsm.module).map(({ label }) => label)).toEqual(["factory-y"]);
    expect(tokenExists(hsm.module, "factory-y")).toBe(true);
    expect(tokenExists(hsm.module, "factory")).toBe(false);
    await expect(initToken({ module: hsm.module, label: "factory-y", pin })).rejects.toMatchObject({
      code: "already-exists",
    });
    await expect(initToken({ module: hsm.module, label: "x".repeat(33), pin })).rejects.toMatchObject({
      code: "input-invalid",
    });
  });

  it("have their label padded with blanks, as software that selects by label expects", () => {
    const module = loadModule(hsm.module);
    const slot = listSlots(module).find((one) => one.label === "factory-y")!;
    expect(module.api.C_GetTokenInfo(slot.slot).label).toBe("factory-y".padEnd(32));
  });

  it("that a crash left without a user PIN are completed", async () => {
    const module = loadModule(hsm.module);
    const soPin = pinFile("half-so.pin", "so-pin-1234");
    const free = listSlots(module).find((slot) => !slot.initialized);
    module.api.C_InitToken(free!.slot, "so-pin-1234", "half");
    await initToken({ module: hsm.module, label: "half", soPin, pin });
    const half = await openToken(config({ uri: "pkcs11:token=half" }));
    await half.generateKey({ label: "act", algorithm: "ec-p256" });
    await half.close();
  });

  it("say what is missing", async () => {
    await expect(openToken(config({ uri: "pkcs11:token=factory-z" }))).rejects.toMatchObject({
      code: "hsm-token-missing",
      message: expect.stringMatching(/"factory-z".*SOFTHSM2_CONF/) as string,
    });
    await expect(openToken(config({ uri: `${URI};serial=0000` }))).rejects.toMatchObject({ code: "hsm-token-missing" });
    await expect(openToken(config({ module: "/usr/lib/no-such-hsm.so" }))).rejects.toMatchObject({
      code: "hsm-unavailable",
      message: expect.stringContaining("/usr/lib/no-such-hsm.so") as string,
    });
    await expect(openToken(config({ module: "libsofthsm2.so" }))).rejects.toMatchObject({ code: "input-invalid" });
    const notAModule = join(dir, "not-a-module.so");
    writeFileSync(notAModule, "text");
    await expect(openToken(config({ module: notAModule }))).rejects.toMatchObject({ code: "hsm-unavailable" });
    await expect(openToken(config({ pin: { file: join(dir, "none.pin") } }))).rejects.toMatchObject({
      code: "hsm-unavailable",
    });
    for (const uri of [`${URI};object=act`, `${URI}?pin-source=file:/x`, `${URI}?module-path=/x`]) {
      await expect(openToken(config({ uri }))).rejects.toMatchObject({ code: "input-invalid" });
    }
  });

  it("refuse a wrong PIN, which no error repeats", async () => {
    await initToken({ module: hsm.module, label: "guarded", pin });
    const uri = "pkcs11:token=guarded";
    for (const wrong of ["wrong-secret", "x"]) {
      const error: unknown = await openToken(config({ uri, pin: pinFile("wrong.pin", wrong) })).catch(
        (e: unknown) => e,
      );
      expect(error).toMatchObject({ code: "hsm-pin-wrong", details: { token: "guarded" } });
      expect((error as Error).cause).toMatchObject({ message: expect.stringMatching(/^CKR_PIN_/) as string });
      expect(inspect(error, { depth: 10, showHidden: true })).not.toContain("wrong-secret");
    }
    await (await openToken(config({ uri }))).close();
  });

  it("are not finalized while one is open", () => {
    expect(() => finalizeModule(hsm.module)).toThrow(expect.objectContaining({ code: "state-conflict" }));
  });

  it("open again after they were closed, and closed ones sign no more", async () => {
    const first = await openToken(config({ uri: "pkcs11:token=guarded" }));
    const signer = await first.generateKey({ label: "act", algorithm: "ec-p256" });
    const last = signer.sign(randomBytes(32));
    await first.close();
    await expect(last).resolves.toBeInstanceOf(Uint8Array);
    await expect(signer.sign(randomBytes(32))).rejects.toMatchObject({ code: "hsm-unavailable" });
    await expect(first.signer("act")).rejects.toMatchObject({ code: "hsm-unavailable" });
    const second = await openToken(config({ uri: "pkcs11:token=guarded" }));
    const again = await second.signer("act");
    expect(again.spki).toEqual(signer.spki);
    await again.sign(randomBytes(32));
    await second.close();
  });
});

describe("keys", () => {
  it.each(ALGORITHMS)("%s: made in the token, unextractable, and OpenSSL accepts the signature", async (algorithm) => {
    const signer = await token.generateKey({ label: `key-${algorithm}`, algorithm });
    const message = randomBytes(3000);
    const signature = await signer.sign(message);
    const pem = createPublicKey({ key: Buffer.from(signer.spki), format: "der", type: "spki" });
    const files = { key: join(dir, "key.pem"), message: join(dir, "message"), signature: join(dir, "signature") };
    writeFileSync(files.key, pem.export({ format: "pem", type: "spki" }));
    writeFileSync(files.signature, signature);
    const judge = (content: Uint8Array): string => {
      writeFileSync(files.message, content);
      const hash = /sha\d+$/.exec(signer.algorithm)?.[0];
      return execFileSync(
        tool("openssl"),
        hash === undefined
          ? [
              "pkeyutl",
              "-verify",
              "-pubin",
              "-inkey",
              files.key,
              "-rawin",
              "-in",
              files.message,
              "-sigfile",
              files.signature,
            ]
          : ["dgst", `-${hash}`, "-verify", files.key, "-signature", files.signature, files.message],
        { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] },
      );
    };
    expect(judge(message)).toMatch(/Verified OK|Signature Verified Successfully/);
    expect(() => judge(message.fill(0, 0, 32))).toThrow();

    expect(await attemptExtraction(config(), `key-${algorithm}`)).toEqual({
      readValue: "CKR_ATTRIBUTE_SENSITIVE",
      wrap: "CKR_KEY_UNEXTRACTABLE",
    });
    const described = (await describeKeys(config())).find(({ label }) => label === `key-${algorithm}`);
    expect(described).toEqual({
      label: `key-${algorithm}`,
      id: expect.stringMatching(/^[0-9a-f]{40}$/) as string,
      role: "signing",
      algorithm,
      keyId: createHash("sha256").update(signer.spki).digest("hex"),
      sensitive: true,
      extractable: false,
      alwaysSensitive: true,
      neverExtractable: true,
      local: true,
    });
  });

  it("sign empty messages and ones longer than a session's buffer", async () => {
    const signer = await token.generateKey({ label: "log", algorithm: "ed25519" });
    const { spki, algorithm } = signer;
    for (const length of [0, 1, 4096, 4097, 1_000_000]) {
      const message = randomBytes(length);
      expect(nodeVerify({ spki, algorithm, message, signature: await signer.sign(message) })).toBe(true);
    }
  });

  it("have one label each, also when made at the same time", async () => {
    const made = await Promise.allSettled(
      Array.from({ length: 4 }, () => token.generateKey({ label: "act", algorithm: "ec-p256" })),
    );
    expect(made.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected", "rejected", "rejected"]);
    await expect(token.generateKey({ label: "act", algorithm: "ed25519" })).rejects.toMatchObject({
      code: "hsm-key-exists",
    });
    expect(await token.hasKey("act")).toBe(true);
    expect(await token.hasKey("other")).toBe(false);
    for (const label of ["", "a b", "a/b", "-a", "x".repeat(65), "ключ"]) {
      await expect(token.generateKey({ label, algorithm: "ec-p256" })).rejects.toMatchObject({ code: "input-invalid" });
    }
  });

  it("are found by label and by URI", async () => {
    const byLabel = await token.signer("act");
    const { id } = (await describeKeys(config())).find(({ label }) => label === "act")!;
    const percent = id.replace(/../g, "%$&");
    for (const uri of ["pkcs11:object=act", `pkcs11:id=${percent}`, `${URI};object=act;id=${percent};type=private`]) {
      expect((await token.signer(uri)).spki).toEqual(byLabel.spki);
    }
    for (const missing of ["other", "pkcs11:object=other", "pkcs11:id=%00%01", `pkcs11:object=log;id=${percent}`]) {
      await expect(token.signer(missing)).rejects.toMatchObject({ code: "hsm-key-missing" });
    }
    for (const uri of ["pkcs11:", URI, "pkcs11:token=other;object=act", "pkcs11:object=act;type=public"]) {
      await expect(token.signer(uri)).rejects.toMatchObject({ code: "input-invalid" });
    }
  });

  it("that could leave the token are refused", async () => {
    const api = newPkcs11Api();
    api.load(hsm.module);
    const slot = listSlots(loadModule(hsm.module)).find(({ label }) => label === "factory-y")!.slot;
    const session = api.C_OpenSession(slot, CK.CKF_SERIAL_SESSION | CK.CKF_RW_SESSION);
    const common = [
      { type: CK.CKA_TOKEN, value: true },
      { type: CK.CKA_LABEL, value: "loose" },
      { type: CK.CKA_ID, value: randomBytes(20) },
    ];
    api.C_GenerateKeyPair(
      session,
      { mechanism: CK.CKM_EC_KEY_PAIR_GEN },
      [...common, { type: CK.CKA_EC_PARAMS, value: Buffer.from("06082a8648ce3d030107", "hex") }],
      [...common, { type: CK.CKA_SIGN, value: true }, { type: CK.CKA_EXTRACTABLE, value: true }],
    );
    api.C_CloseSession(session);
    await expect(token.signer("loose")).rejects.toMatchObject({ code: "key-unsupported" });
  });

  it("whose public object belongs to another key release nothing", async () => {
    const [victim, stranger] = [
      await token.generateKey({ label: "victim", algorithm: "ec-p256" }),
      await token.generateKey({ label: "stranger", algorithm: "ec-p256" }),
    ];
    const { api } = loadModule(hsm.module);
    const slot = listSlots(loadModule(hsm.module)).find(({ label }) => label === "factory-y")!.slot;
    const session = api.C_OpenSession(slot, CK.CKF_SERIAL_SESSION | CK.CKF_RW_SESSION);
    const half = (label: string): Buffer => {
      api.C_FindObjectsInit(session, [
        { type: CK.CKA_CLASS, value: CK.CKO_PUBLIC_KEY },
        { type: CK.CKA_LABEL, value: label },
      ]);
      const [found] = api.C_FindObjects(session, 1);
      api.C_FindObjectsFinal(session);
      return found!;
    };
    const id = api.C_GetAttributeValue(session, half("victim"), [{ type: CK.CKA_ID }])[0]!.value;
    api.C_DestroyObject(session, half("victim"));
    api.C_SetAttributeValue(session, half("stranger"), [{ type: CK.CKA_ID, value: id }]);
    api.C_CloseSession(session);
    const deceived = await token.signer("victim");
    expect(deceived.spki).toEqual(stranger.spki);
    expect(deceived.spki).not.toEqual(victim.spki);
    await expect(deceived.sign(randomBytes(10))).rejects.toMatchObject({ code: "hsm-signature-invalid" });
  });

  it("are the same in a second process", async () => {
    const { spki, algorithm } = await token.signer("act");
    const program = `
      import { openToken } from ${JSON.stringify(join(PROJECT_ROOT, "hsm/index.ts"))};
      const token = await openToken(${JSON.stringify(config())});
      const signer = await token.signer("act");
      const signature = await signer.sign(Buffer.from("from the other process"));
      await token.close();
      console.log(JSON.stringify([signer.spki, signature].map((bytes) => Buffer.from(bytes).toString("base64"))));
    `;
    const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module-typescript", "-e", program], {
      env: { ...process.env, ...hsm.env, NODE_OPTIONS: "" },
    });
    const [otherSpki, signature] = (JSON.parse(stdout) as string[]).map((text) => Buffer.from(text, "base64"));
    expect(otherSpki!.equals(spki)).toBe(true);
    const message = Buffer.from("from the other process");
    expect(nodeVerify({ spki, algorithm, message, signature: signature! })).toBe(true);
  });
});

describe("unsafe PIN files", () => {
  it("open no token", async () => {
    const source = pinFile("shared.pin", "1234");
    chmodSync(join(dir, "shared.pin"), 0o640);
    await expect(openToken(config({ pin: source }))).rejects.toMatchObject({ code: "hsm-unavailable" });
  });
});
