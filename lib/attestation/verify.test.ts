import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { HIERARCHY, Tpm } from "../../apps/device/tpm/tpm.ts";
import { AK_ATTRIBUTES, EK_P256, EK_P384, EK_RSA, rsaSigningKey, signingKey } from "../../apps/device/tpm/templates.ts";
import { nodeVerify } from "../../hsm/index.ts";
import { nodeCredentialCrypto } from "../../services/attestation/crypto.ts";
import { tempDir, tool } from "../../test/support/index.ts";
import { softTpm, tpmVendor, type SoftTpm } from "../../test/support/swtpm.ts";
import { concatBytes, equalBytes, fromHex, toHex } from "../domain/bytes.ts";
import { makeCredential } from "./credential.ts";
import { tpm2b, u16, u32 } from "./cursor.ts";
import { ekSpkiOf } from "./ek-certificate.ts";
import { readPublic } from "./public-area.ts";
import { type TpmDemand, type TpmEvidence, verifyTpmAttestation } from "./verify.ts";

/** fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, sign */
const DEVICE_KEY = 0x00040072;
const fixedTPM = 1 << 1;
const fixedParent = 1 << 4;
const restricted = 1 << 16;
/** The TCG default storage key, an ECC primary one under the owner. */
const STORAGE = concatBytes(
  ...[u16(0x0023), u16(0x000b), u32(0x00030472), tpm2b(new Uint8Array()), u16(6), u16(128), u16(0x43)],
  ...[u16(0x10), u16(3), u16(0x10), tpm2b(new Uint8Array()), tpm2b(new Uint8Array())],
);

let soft: SoftTpm;
let tpm: Tpm;
let ekCertificates: Uint8Array[];
let nonce: Uint8Array;

beforeAll(async () => {
  soft = await softTpm();
  tpm = await Tpm.open(soft.tcti);
  ekCertificates = [(await tpm.nvRead(0x01c00002))!, soft.vendor.issuer()];
  nonce = randomBytes(32);
}, 30_000);
// A TPM has three slots.
afterEach(() => tpm.flushAll());
afterAll(async () => {
  await tpm.close();
  await soft.stop();
});

interface Making {
  ak?: Uint8Array;
  key?: number;
  /** the key under a storage key, rather than a primary one */
  under?: boolean;
}

/** What a device with such keys hands in: all of it by the TPM itself. */
async function evidenceOf({
  ak: template = signingKey(AK_ATTRIBUTES),
  key: attributes = DEVICE_KEY,
  under,
}: Making = {}) {
  try {
    const ak = await tpm.createPrimary(HIERARCHY.endorsement, template);
    const parent = under ? await tpm.createPrimary(HIERARCHY.owner, STORAGE) : undefined;
    const key =
      parent === undefined
        ? await tpm.createPrimary(HIERARCHY.owner, signingKey(attributes))
        : await child(parent.handle, signingKey(attributes));
    const evidence: TpmEvidence = {
      ekCertificates,
      akPublic: ak.publicArea,
      akParents: [],
      keyPublic: key.publicArea,
      keyParents: parent === undefined ? [] : [parent.publicArea],
      ...(await tpm.certify(key.handle, new Uint8Array(), ak.handle, nonce)),
    };
    return evidence;
  } finally {
    await tpm.flushAll();
  }
}

async function child(parent: number, template: Uint8Array) {
  const { wrapped, publicArea } = await tpm.create(parent, template);
  return await tpm.load(parent, wrapped, publicArea);
}

const verified = (evidence: TpmEvidence, other: Partial<TpmDemand> = {}) =>
  verifyTpmAttestation(evidence, {
    nonce,
    spki: other.spki ?? readPublic(evidence.keyPublic, "the key").spki,
    roots: [soft.vendor.root()],
    at: new Date(),
    verify: nodeVerify,
    ...other,
  });

describe("what a TPM certifies of a key", () => {
  it("holds, with what the vendor says of the TPM", async () => {
    const { tpm: endorsed, info, key } = await verified(await evidenceOf());
    expect(endorsed).toMatchObject({ manufacturer: "id:00001014", model: "swtpm" });
    expect(endorsed.version).toMatch(/^id:\d+$/);
    expect(info.name).toEqual(key.name);
    expect(info.firmwareVersion).toBeGreaterThan(0n);
    expect(info.clock).toMatchObject({ safe: true });
    expect(info.clock.milliseconds).toBeGreaterThan(0n);
  });

  it("holds for a key under a storage key, and by RSASSA", async () => {
    await expect(verified(await evidenceOf({ under: true }))).resolves.toBeDefined();
    await expect(verified(await evidenceOf({ ak: rsaSigningKey(AK_ATTRIBUTES) }))).resolves.toBeDefined();
  });

  it("holds by an attestation key and an endorsement key on P-384", async () => {
    const certificate = (await tpm.nvRead(0x01c00016))!;
    const ek = await tpm.createPrimary(HIERARCHY.endorsement, EK_P384);
    // By the TPM's maker the template is H-3: it is the key that was certified.
    expect(ekSpkiOf(certificate)).toEqual(readPublic(ek.publicArea, "the endorsement key").spki);
    await tpm.flushAll();
    const evidence = await evidenceOf({ ak: signingKey(AK_ATTRIBUTES, "p384") });
    const { tpm: endorsed } = await verified({ ...evidence, ekCertificates: [certificate, soft.vendor.issuer()] });
    expect(endorsed).toMatchObject({ model: "swtpm" });
    const [last] = evidence.signature.slice(-1);
    const spoiled = Uint8Array.from([...evidence.signature.slice(0, -1), last! ^ 1]);
    await expect(verified({ ...evidence, signature: spoiled })).rejects.toMatchObject({
      code: "attestation-signature-invalid",
    });
  });

  it("falls with any byte of it", { timeout: 120_000 }, async () => {
    const evidence = await evidenceOf({ under: true });
    await verified(evidence);
    const codes = new Map<string, number>();
    let flips = 0;
    for (const field of Object.keys(evidence) as (keyof TpmEvidence)[]) {
      const parts = [evidence[field]].flat() as Uint8Array[];
      for (const [which, part] of parts.entries()) {
        for (let at = 0; at < part.length; at++) {
          const spoiled = new Uint8Array(part);
          spoiled[at]! ^= 1 << (at % 8);
          const all = parts.map((one, i) => (i === which ? spoiled : one));
          const spki = readPublic(evidence.keyPublic, "the key").spki;
          const altered = { ...evidence, [field]: Array.isArray(evidence[field]) ? all : all[0] };
          const code = await verified(altered, { spki }).then(
            () => `accepted: ${field} ${which} at ${at}`,
            (error: { code?: string }) => error.code ?? "no code",
          );
          codes.set(code, (codes.get(code) ?? 0) + 1);
          flips++;
        }
      }
    }
    console.log(`${flips} flipped bytes:`, Object.fromEntries(codes));
    expect([...codes.keys()].filter((code) => !/^(attestation-|key-)/.test(code))).toEqual([]);
  });

  it("falls for another nonce, another key, another vendor, later than its certificates", async () => {
    const evidence = await evidenceOf();
    await expect(verified(evidence, { nonce: randomBytes(32) })).rejects.toMatchObject({
      code: "attestation-replayed",
    });
    const other = await evidenceOf({ under: true });
    const { spki } = readPublic(other.keyPublic, "another key");
    await expect(verified(evidence, { spki })).rejects.toMatchObject({ code: "attestation-other-key" });
    const swapped = { ...evidence, keyPublic: other.keyPublic, keyParents: other.keyParents };
    await expect(verified(swapped)).rejects.toMatchObject({ code: "attestation-other-key" });
    const mixed = { ...evidence, attest: other.attest };
    await expect(verified(mixed)).rejects.toMatchObject({ code: "attestation-signature-invalid" });

    const vendor = tpmVendor();
    await (await softTpm(vendor)).stop();
    await expect(verified(evidence, { roots: [vendor.root()] })).rejects.toMatchObject({
      code: "attestation-ek-untrusted",
    });
    // The intermediate CA has its own path, and is no endorsement key's certificate.
    const ca = { ...evidence, ekCertificates: [soft.vendor.issuer()] };
    await expect(verified(ca)).rejects.toMatchObject({ code: "attestation-ek-untrusted" });
    const surplus = { ...evidence, ekCertificates: [...ekCertificates, vendor.issuer()] };
    await expect(verified(surplus)).rejects.toMatchObject({ code: "attestation-ek-untrusted" });
    await expect(verified(evidence, { at: new Date("2001-01-01") })).rejects.toMatchObject({
      code: "attestation-ek-untrusted",
    });
  });

  it("falls for an attestation key that signs anything, or could leave", async () => {
    for (const lost of [restricted, fixedTPM | fixedParent]) {
      const evidence = await evidenceOf({ ak: signingKey(AK_ATTRIBUTES & ~lost) });
      await expect(verified(evidence)).rejects.toMatchObject({ code: "attestation-ak-unfit" });
    }
  });

  it("falls for a device's key that could leave its TPM", async () => {
    const duplicable = await evidenceOf({ key: DEVICE_KEY & ~fixedTPM & ~fixedParent, under: true });
    await expect(verified(duplicable)).rejects.toMatchObject({ code: "attestation-key-exportable" });
  });
});

describe("MakeCredential", () => {
  const secret = randomBytes(32);

  it.each([
    ["RSA 2048", EK_RSA],
    ["P-256", EK_P256],
    ["P-384", EK_P384],
  ])("is opened by the TPM with an endorsement key of %s, for the key it names alone", async (_name, template) => {
    const ek = await tpm.createPrimary(HIERARCHY.endorsement, template);
    const ak = await tpm.createPrimary(HIERARCHY.endorsement, signingKey(AK_ATTRIBUTES));
    const { name } = readPublic(ak.publicArea, "the attestation key");
    const { spki } = readPublic(ek.publicArea, "the endorsement key");
    const credential = makeCredential(spki, name, secret, nodeCredentialCrypto);
    expect(secret.equals(await tpm.activateCredential(ak.handle, ek.handle, credential))).toBe(true);
    const forAnother = makeCredential(spki, fromHex(`000b${"ab".repeat(32)}`), secret, nodeCredentialCrypto);
    await expect(tpm.activateCredential(ak.handle, ek.handle, forAnother)).rejects.toMatchObject({
      code: "hsm-unavailable",
    });
  });

  it("has the structure of tpm2_makecredential's, and tpm2_activatecredential opens it", async () => {
    const dir = tempDir("credential");
    const env = { ...process.env, TPM2TOOLS_TCTI: soft.tcti };
    const run = (name: string, ...args: string[]) => {
      try {
        return execFileSync(tool(name), args, { cwd: dir, env, stdio: "pipe", encoding: "utf8" });
      } catch (error) {
        throw new Error(`${name}: ${String((error as { stderr?: unknown }).stderr)}`, { cause: error });
      } finally {
        execFileSync(tool("tpm2_flushcontext"), ["-t"], { env, stdio: "pipe" });
      }
    };
    // swtpm serves one connection at a time.
    await tpm.close();
    try {
      run("tpm2_createek", "-c", "ek.ctx", "-G", "rsa", "-u", "ek.pub");
      run(
        "tpm2_createak",
        "-C",
        "ek.ctx",
        "-c",
        "ak.ctx",
        "-G",
        "ecc",
        "-g",
        "sha256",
        "-s",
        "ecdsa",
        "-u",
        "ak.pub",
        "-n",
        "ak.name",
      );
      const akPublic = readPublic(readFileSync(join(dir, "ak.pub")).subarray(2), "the attestation key");
      expect(toHex(akPublic.name)).toBe(readFileSync(join(dir, "ak.name")).toString("hex"));
      writeFileSync(join(dir, "secret"), secret);
      run("tpm2_makecredential", "-u", "ek.pub", "-s", "secret", "-n", toHex(akPublic.name), "-o", "theirs");
      const theirs = readFileSync(join(dir, "theirs"));
      const { idObject, encryptedSecret } = makeCredential(
        ekSpkiOf(ekCertificates[0]!),
        akPublic.name,
        secret,
        nodeCredentialCrypto,
      );
      const ours = concatBytes(fromHex("badcc0de00000001"), idObject, encryptedSecret);
      expect(ours.length).toBe(theirs.length);
      // Header, and the lengths of the credential, its integrity, and the encrypted seed: all but what is random.
      for (const [from, to] of [
        [0, 12],
        [8 + idObject.length, 10 + idObject.length],
      ] as const) {
        expect(equalBytes(ours.subarray(from, to), theirs.subarray(from, to))).toBe(true);
      }
      writeFileSync(join(dir, "ours"), ours);
      run("tpm2_startauthsession", "--policy-session", "-S", "session");
      run("tpm2_policysecret", "-S", "session", "-c", "e");
      run(
        "tpm2_activatecredential",
        "-c",
        "ak.ctx",
        "-C",
        "ek.ctx",
        "-i",
        "ours",
        "-o",
        "opened",
        "-P",
        "session:session",
      );
      expect(readFileSync(join(dir, "opened")).equals(secret)).toBe(true);
      run("tpm2_flushcontext", "session");
    } finally {
      tpm = await Tpm.open(soft.tcti);
    }
  });
});
