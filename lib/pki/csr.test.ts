import "reflect-metadata";
import { writeFileSync } from "node:fs";
import { webcrypto } from "node:crypto";
import { join } from "node:path";
import * as x509 from "@peculiar/x509";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { nodeVerify } from "../../hsm/verify.ts";
import { tempDir } from "../../test/support/index.ts";
import { makeCsr, throwawayKey } from "../../test/support/issuing.ts";
import { openssl, opensslBytes } from "../../test/support/judge.ts";
import { equalBytes, toHex } from "../domain/bytes.ts";
import { CountersignError, errorCodeOf } from "../domain/errors.ts";
import { assembleCsr, checkCsr, csrInfo, parseCsr } from "./csr.ts";
import * as der from "./der-write.ts";
import { buildName } from "./name.ts";
import { OID } from "./oids.ts";
import { pemEncode } from "./pem.ts";
import { webCryptoVerify } from "./verify.ts";

x509.cryptoProvider.set(webcrypto as Crypto);
const key = throwawayKey();
const ECDSA = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };
const pemOf = (csr: Uint8Array): string => pemEncode("CERTIFICATE REQUEST", csr);

describe("certification requests", () => {
  it.each(["ec-p256", "ec-p384", "ed25519", "rsa-2048"] as const)(
    "of ours, by %s, satisfy openssl and ourselves",
    async (algorithm) => {
      const own = throwawayKey(algorithm);
      const bytes = makeCsr(own, { cn: "dev:1", organization: "Factory-Y", challengePassword: "nonce-123" });
      const judged = openssl(["req", "-verify", "-noout", "-text", "-subject"], pemOf(bytes));
      expect(judged.ok).toBe(true);
      expect(judged.text).toMatch(/verify OK/);
      expect(judged.text).toMatch(/challengePassword\s*:nonce-123/);
      const csr = parseCsr(bytes);
      expect(csr).toMatchObject({ subjectCn: "dev:1", keyAlgorithm: algorithm, challengePassword: "nonce-123" });
      expect(equalBytes(csr.spki, own.spki)).toBe(true);
      await checkCsr(csr, webCryptoVerify);
    },
  );

  it("by openssl are read, with attributes and extensions", async () => {
    const dir = tempDir("csr");
    const config = join(dir, "req.cnf");
    writeFileSync(
      config,
      "[req]\nprompt=no\ndistinguished_name=dn\nattributes=at\nreq_extensions=ext\n[dn]\nO=Y\nCN=dev-7\n" +
        "[at]\nchallengePassword=abc123\nunstructuredName=x\n[ext]\nbasicConstraints=CA:TRUE\nsubjectAltName=DNS:a.example\n",
    );
    const args = [
      "req",
      "-new",
      "-newkey",
      "ec",
      "-pkeyopt",
      "ec_paramgen_curve:P-256",
      "-nodes",
      "-keyout",
      join(dir, "k"),
      "-config",
      config,
    ];
    const text = Buffer.from(opensslBytes(args)).toString();
    for (const input of [text, new TextEncoder().encode(text)]) {
      const csr = parseCsr(input);
      expect(csr).toMatchObject({ subjectCn: "dev-7", challengePassword: "abc123" });
      expect(csr.requestedExtensions.map((extension) => extension.oid)).toEqual([
        OID.basicConstraints,
        OID.subjectAltName,
      ]);
      await checkCsr(csr, webCryptoVerify);
    }
  });

  it("with an attestation say that there is one", async () => {
    const keys = (await webcrypto.subtle.generateKey(ECDSA, true, ["sign", "verify"])) as CryptoKeyPair;
    // The bundle of draft-ietf-lamps-csr-attestation, with a tcg-attest-tpm-certify statement.
    const statement = der.sequence(der.oid("2.23.133.20.1"), der.sequence(der.octetString(new Uint8Array(40))));
    const attribute = new x509.Attribute(OID.attestation, [
      Uint8Array.from(der.sequence(der.sequence(statement))).buffer,
    ]);
    const request = { name: "CN=dev-9", keys, signingAlgorithm: ECDSA };
    const [bare, attested] = await Promise.all([
      x509.Pkcs10CertificateRequestGenerator.create(request),
      x509.Pkcs10CertificateRequestGenerator.create({ ...request, attributes: [attribute] }),
    ]);
    expect([bare, attested].map((one) => parseCsr(one.toString("pem")).attestation)).toEqual([false, true]);
  });

  it("by @peculiar/x509 are read", async () => {
    const keys = (await webcrypto.subtle.generateKey(ECDSA, true, ["sign", "verify"])) as CryptoKeyPair;
    const made = await x509.Pkcs10CertificateRequestGenerator.create({
      name: "CN=dev-8",
      keys,
      signingAlgorithm: ECDSA,
      attributes: [new x509.ChallengePasswordAttribute("pw")],
    });
    const csr = parseCsr(made.toString("pem"));
    expect(csr).toMatchObject({ subjectCn: "dev-8", challengePassword: "pw" });
    await checkCsr(csr, webCryptoVerify);
  });

  it.each([
    ["P-256", "sha256", "ecdsa-p256-sha256"],
    ["P-256", "sha384", "ecdsa-p256-sha384"],
    ["P-256", "sha512", "ecdsa-p256-sha512"],
    ["P-384", "sha256", "ecdsa-p384-sha256"],
    ["P-384", "sha384", "ecdsa-p384-sha384"],
    ["P-384", "sha512", "ecdsa-p384-sha512"],
    ["RSA", "sha256", "rsa-pkcs1-sha256"],
    ["RSA", "sha512", "rsa-pkcs1-sha512"],
  ])("by openssl with %s and %s are read, and prove possession to both verifiers", async (kind, hash, algorithm) => {
    const newKey = kind === "RSA" ? ["rsa:2048"] : ["ec", "-pkeyopt", `ec_paramgen_curve:${kind}`];
    const made = opensslBytes([
      "req",
      "-new",
      "-nodes",
      "-keyout",
      "/dev/null",
      "-newkey",
      ...newKey,
      `-${hash}`,
      "-subj",
      "/CN=dev-9",
    ]);
    const csr = parseCsr(made);
    expect(csr).toMatchObject({ subjectCn: "dev-9", signatureAlgorithm: algorithm });
    for (const verify of [webCryptoVerify, nodeVerify]) {
      await checkCsr(csr, verify);
      const forged = { ...csr, tbs: csr.tbs.with(-1, csr.tbs.at(-1)! ^ 1) };
      await expect(checkCsr(forged, verify)).rejects.toMatchObject({ code: "csr-signature-invalid" });
    }
  });

  it.each(["sha1", "sha224"])("by openssl with %s are refused", (hash) => {
    const newKey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    const made = opensslBytes([
      "req",
      "-new",
      "-nodes",
      "-keyout",
      "/dev/null",
      ...newKey,
      `-${hash}`,
      "-subj",
      "/CN=x",
    ]);
    expect(() => parseCsr(made)).toThrow(expect.objectContaining({ code: "key-unsupported" }) as Error);
  });

  it("are refused without proof of possession", async () => {
    const info = csrInfo({ cn: "dev-1", spki: key.spki });
    const forged = parseCsr(assembleCsr(info, key.algorithm, throwawayKey().sign(info)));
    await expect(checkCsr(forged, webCryptoVerify)).rejects.toMatchObject({ code: "csr-signature-invalid" });
    await expect(checkCsr(forged, () => "yes" as unknown as boolean)).rejects.toMatchObject({
      code: "csr-signature-invalid",
    });
    const good = parseCsr(assembleCsr(info, key.algorithm, key.sign(info)));
    await expect(checkCsr({ ...good, spki: throwawayKey().spki }, webCryptoVerify)).rejects.toMatchObject({
      code: "csr-signature-invalid",
    });
  });

  const name = buildName({ commonName: "x" });
  const challenge = der.sequence(der.oid(OID.challengePassword), der.setOf(der.encodeElement(0x0c, Uint8Array.of(97))));
  it.each([
    ["another version", der.sequence(der.integer(1), name, key.spki, der.explicit(0)), key.algorithm, "csr-invalid"],
    [
      "an attribute twice",
      der.sequence(der.integer(0), name, key.spki, der.explicit(0, challenge, challenge)),
      key.algorithm,
      "csr-invalid",
    ],
    [
      "octets after the attributes",
      der.sequence(der.integer(0), name, key.spki, der.explicit(0), der.integer(1)),
      key.algorithm,
      "der-invalid",
    ],
    ["an algorithm that isn't the key's", csrInfo({ cn: "x", spki: key.spki }), "ed25519", "key-unsupported"],
    [
      "a key off the curve",
      der.sequence(der.integer(0), name, key.spki.with(-1 + key.spki.length, key.spki.at(-1)! ^ 1), der.explicit(0)),
      key.algorithm,
      "key-weak",
    ],
  ] as const)("are refused with %s", (_what, info, algorithm, code) => {
    const bytes = assembleCsr(info, algorithm, key.sign(info));
    expect(() => parseCsr(bytes)).toThrow(expect.objectContaining({ code }) as Error);
  });

  it("are refused above 16 KiB, as two, and beside a private key", () => {
    const good = pemOf(makeCsr(key, { cn: "x" }));
    const codeOf = (input: Uint8Array | string): string => {
      try {
        parseCsr(input);
        return "ok";
      } catch (error) {
        return errorCodeOf(error);
      }
    };
    expect(codeOf(new Uint8Array(16 * 1024 + 1).fill(0x30))).toBe("input-too-large");
    expect(codeOf(`${good}${" ".repeat(70_000)}`)).toBe("input-too-large");
    expect(codeOf(good + good)).toBe("csr-invalid");
    expect(codeOf(good + pemEncode("PRIVATE KEY", Uint8Array.of(1)))).toBe("pem-invalid");
    expect(codeOf("")).toBe("pem-invalid");
    expect(codeOf(new Uint8Array(0))).toBe("pem-invalid");
  });

  it("mutated, cut or random end in a value or a typed refusal", () => {
    const samples = [
      makeCsr(key, { cn: "dev-1", challengePassword: "pw" }),
      makeCsr(throwawayKey("rsa-2048"), { cn: "dev-2" }),
    ];
    const edit = fc.record({
      sample: fc.nat({ max: 1 }),
      changes: fc.array(fc.tuple(fc.nat({ max: 1000 }), fc.integer({ min: 0, max: 255 })), { maxLength: 4 }),
      cut: fc.nat({ max: 40 }),
    });
    let read = 0;
    fc.assert(
      fc.property(edit, ({ sample, changes, cut }) => {
        const bytes = samples[sample]!.slice();
        for (const [at, value] of changes) bytes[at % bytes.length] = value;
        try {
          parseCsr(bytes.subarray(0, bytes.length - (cut < 30 ? 0 : cut)));
          read++;
        } catch (error) {
          expect(error, toHex(bytes)).toBeInstanceOf(CountersignError);
        }
      }),
      { numRuns: 3000 },
    );
    expect(read).toBeGreaterThan(100);
  });

  it("for a key in a token take only sound parameters", () => {
    expect(() => csrInfo({ cn: "x", spki: key.spki, challengePassword: "" })).toThrow(CountersignError);
    expect(() => csrInfo({ cn: "", spki: key.spki })).toThrow(CountersignError);
    expect(() => csrInfo({ cn: "x", spki: Uint8Array.of(0x30, 0) })).toThrow(CountersignError);
  });
});
