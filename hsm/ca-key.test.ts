import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { parseCertificate } from "../lib/pki/certificate.ts";
import { LintedCrlTbs, buildCrl, lintCrl } from "../lib/pki/crl.ts";
import { checkCsr, parseCsr } from "../lib/pki/csr.ts";
import { type IssuerInfo, issuerFromCertificate, selfIssuer } from "../lib/pki/issuer.ts";
import { LintedTbs, lintTbs } from "../lib/pki/lint.ts";
import { pemEncode } from "../lib/pki/pem.ts";
import { PROFILES } from "../lib/pki/profiles.ts";
import { newSerial } from "../lib/pki/serial.ts";
import { buildTbs } from "../lib/pki/tbs.ts";
import { softhsmDir, tempDir, tool } from "../test/support/index.ts";
import { type CaKey, type Token, createPinFile, initToken, nodeVerify, openToken, roleOfLabel } from "./index.ts";

const NOT_BEFORE = new Date("2026-11-01T00:00:00Z");
const NOT_AFTER = new Date("2036-11-01T00:00:00Z");
const ROOT_NAME = { commonName: "Company-X Root" };

let dir: string;
let token: Token;
let root: CaKey;
let factory: CaKey;
beforeAll(async () => {
  const { module } = softhsmDir();
  dir = tempDir("ca");
  const pin = await createPinFile(join(dir, "pin"));
  await initToken({ module, label: "ca-token", pin });
  token = await openToken({ module, uri: "pkcs11:token=ca-token", pin });
  root = await token.generateCaKey({ label: "root", algorithm: "ec-p384" });
  factory = await token.generateCaKey({ label: "ca", algorithm: "ec-p256" });
});
afterAll(async () => {
  await token.close();
});

const validity = { notBefore: NOT_BEFORE, notAfter: NOT_AFTER };
const rootIssuer = (): IssuerInfo => selfIssuer({ name: ROOT_NAME, spki: root.spki, ...validity });
const common = () => ({ serial: newSerial(randomBytes), ...validity });

function lintedRoot(): LintedTbs {
  const params = { ...common(), issuer: rootIssuer(), subject: ROOT_NAME, spki: root.spki };
  return lintTbs(buildTbs(PROFILES.root, params), PROFILES.root, rootIssuer());
}

function lintedFactory(): LintedTbs {
  const profile = PROFILES["intermediate-embedded"];
  const subject = { commonName: "Factory-Y CA" };
  const tbs = buildTbs(profile, { ...common(), issuer: rootIssuer(), subject, spki: factory.spki, pathLen: 0 });
  return lintTbs(tbs, profile, rootIssuer());
}

const lintedCrl = (): LintedCrlTbs => {
  const revoked = [{ serial: "0102", revokedAt: NOT_BEFORE, reason: "keyCompromise" as const }];
  const dates = { thisUpdate: NOT_BEFORE, nextUpdate: NOT_AFTER };
  return lintCrl(buildCrl({ issuer: rootIssuer(), number: 1n, ...dates, revoked }), rootIssuer());
};

function pem(name: string, label: string, der: Uint8Array): string {
  const path = join(dir, name);
  writeFileSync(path, pemEncode(label, der));
  return path;
}

const openssl = (...args: string[]): string =>
  execFileSync(tool("openssl"), args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });

describe("a CA key", () => {
  it("signs linted certificates and CRLs that OpenSSL's strict path validation accepts", async () => {
    const rootDer = await root.signCertificate(lintedRoot());
    const factoryDer = await root.signCertificate(lintedFactory());
    const crlDer = await root.signCrl(lintedCrl());
    const issuer = issuerFromCertificate(parseCertificate(factoryDer));
    const device = await token.generateKey({ label: "device", algorithm: "ec-p256" });
    const params = { ...common(), issuer, subject: { commonName: "sn-0001" }, spki: device.spki };
    const leafDer = await factory.signCertificate(lintTbs(buildTbs(PROFILES.idevid, params), PROFILES.idevid, issuer));
    const files = {
      root: pem("root.pem", "CERTIFICATE", rootDer),
      factory: pem("factory.pem", "CERTIFICATE", factoryDer),
      leaf: pem("leaf.pem", "CERTIFICATE", leafDer),
      crl: pem("crl.pem", "X509 CRL", crlDer),
    };
    const trust = ["-CAfile", files.root, "-attime", String(NOT_BEFORE.getTime() / 1000 + 60)];
    expect(openssl("verify", "-x509_strict", ...trust, "-untrusted", files.factory, files.leaf)).toMatch(/OK/);
    expect(openssl("verify", "-x509_strict", "-crl_check", "-CRLfile", files.crl, ...trust, files.factory)).toMatch(
      /OK/,
    );
    expect(openssl("crl", "-in", files.crl, "-noout", "-text")).toMatch(/Serial Number: 0102/);
  });

  it("asks for its own certificate with a request that OpenSSL verifies", async () => {
    const der = await factory.signRequest({ cn: "Factory-Y CA", challengePassword: "nonce-123" });
    const csr = parseCsr(der);
    await checkCsr(csr, nodeVerify);
    expect(csr.challengePassword).toBe("nonce-123");
    expect(csr.spki).toEqual(factory.spki);
    const path = pem("factory.csr", "CERTIFICATE REQUEST", der);
    const text = execFileSync(tool("openssl"), ["req", "-in", path, "-noout", "-verify", "-subject"], {
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
    expect(text).toMatch(/CN\s*=\s*Factory-Y CA/);
  });

  it("signs nothing that was linted for another issuer", async () => {
    await expect(factory.signCertificate(lintedFactory())).rejects.toMatchObject({ code: "profile-violation" });
    await expect(factory.signCrl(lintedCrl())).rejects.toMatchObject({ code: "profile-violation" });
  });

  it("gives one certificate for one lint", async () => {
    const linted = lintedRoot();
    const both = await Promise.allSettled([root.signCertificate(linted), root.signCertificate(linted)]);
    expect(both.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
  });

  it("refuses look-alikes before the token is asked", async () => {
    const real = lintedRoot();
    const { bytes, signatureAlgorithm, issuerKeyId, profile } = real;
    const evil = Uint8Array.from([...bytes.subarray(0, 10)]);
    const claims = { bytes: evil, signatureAlgorithm, issuerKeyId, profile };
    const shadowed = Object.create(real, { bytes: { value: evil } }) as LintedTbs;
    const prototyped = Object.assign(Object.create(null) as object, claims);
    Object.setPrototypeOf(prototyped, LintedTbs.prototype);
    for (const forged of [claims, shadowed, prototyped, evil, lintedCrl(), undefined]) {
      await expect(root.signCertificate(forged as LintedTbs)).rejects.toMatchObject({
        code: "profile-violation",
        message: expect.stringContaining("signs only what the linter passed") as string,
      });
      if (forged instanceof LintedCrlTbs) continue;
      await expect(root.signCrl(forged as unknown as LintedCrlTbs)).rejects.toMatchObject({
        code: "profile-violation",
      });
    }
  });

  it("is never a plain signer, whatever it is called by", async () => {
    for (const name of ["root", "ca", "pkcs11:object=ca", "pkcs11:token=ca-token;object=root;type=private"]) {
      await expect(token.signer(name)).rejects.toMatchObject({ code: "unauthorized" });
    }
    for (const label of ["ca", "root", "infra", "CA", "Root", "ca-2027", "root-old", "infra-2"]) {
      expect(roleOfLabel(label)).toBe("ca");
      await expect(token.generateKey({ label, algorithm: "ec-p256" })).rejects.toMatchObject({ code: "unauthorized" });
    }
    for (const label of ["act", "log", "witness", "device", "cache", "caller", "my-ca"]) {
      expect(roleOfLabel(label)).toBe("signing");
      await expect(token.generateCaKey({ label, algorithm: "ec-p256" })).rejects.toMatchObject({
        code: "unauthorized",
      });
    }
    await token.generateKey({ label: "act", algorithm: "ec-p256" });
    await expect(token.caKey("act")).rejects.toMatchObject({ code: "unauthorized" });
    expect((await token.caKey("ca")).spki).toEqual(factory.spki);
  });

  it("has no door for bytes in what it shows", () => {
    for (const thing of [root, token] as object[]) {
      const reachable = [...Object.keys(thing), ...Object.getOwnPropertyNames(Object.getPrototypeOf(thing))];
      expect(reachable).not.toContain("sign");
      for (const name of ["pool", "module", "home", "key"]) expect(reachable).not.toContain(name);
    }
  });
});
