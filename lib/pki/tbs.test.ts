import "reflect-metadata";
import { createPublicKey, webcrypto } from "node:crypto";
import * as x509 from "@peculiar/x509";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { issue, issueCa, pem, throwawayKey, throwawayRoot, type ThrowawayKey } from "../../test/support/issuing.ts";
import { openssl } from "../../test/support/judge.ts";
import { fromHex, toHex } from "../domain/bytes.ts";
import type { KeyAlgorithm } from "../domain/signing.ts";
import { parseCertificate } from "./certificate.ts";
import { KEY_USAGE_BITS } from "./extension-values.ts";
import { ipOctets, type HardwareModuleName, type SubjectAltName } from "./general-name.ts";
import { issuerFromCertificate, selfIssuer, type IssuerInfo } from "./issuer.ts";
import { lintTbs } from "./lint.ts";
import { buildName, type NameParts } from "./name.ts";
import { OID } from "./oids.ts";
import { PROFILES, type ProfileName } from "./profiles.ts";
import { subjectKeyIdentifier } from "./spki.ts";
import { buildTbs, type TbsParams } from "./tbs.ts";
import { NO_EXPIRY } from "./time.ts";

x509.cryptoProvider.set(webcrypto as Crypto);

const KEYS: Record<string, ThrowawayKey> = Object.fromEntries(
  (["ec-p256", "ec-p384", "ed25519", "rsa-3072"] satisfies KeyAlgorithm[]).map((one) => [one, throwawayKey(one)]),
);
const SIGNING: Record<string, object> = {
  "ec-p256": { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" },
  "ec-p384": { name: "ECDSA", namedCurve: "P-384", hash: "SHA-384" },
  ed25519: { name: "Ed25519" },
  "rsa-3072": { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256" },
};

const DAY = 86_400_000;
const START = Date.UTC(2026, 10, 1);
const printable = fc.stringMatching(/^[A-Za-z0-9 '()+,./:=?-]{1,20}$/);
const text = fc
  .string({ unit: "grapheme", minLength: 1, maxLength: 12 })
  .filter((s) => !/\p{Cc}/u.test(s) && s.isWellFormed());
const deviceId = fc.stringMatching(/^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$/);
const dnsName = fc.stringMatching(/^[a-z]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z]{2,6}){1,2}$/);

interface Case {
  readonly profile: ProfileName;
  readonly issuerKey: string;
  readonly key: string;
  readonly params: Omit<TbsParams, "issuer" | "spki">;
  readonly issuerName: NameParts;
  readonly ipText: string | undefined;
}

/** Encoded by hand: the builder's own OID encoder must not be its judge. */
const HARDWARE_TYPES: Record<string, readonly number[]> = {
  "1.3.6.1.4.1.99999.1": [0x2b, 6, 1, 4, 1, 0x86, 0x8d, 0x1f, 1],
  "1.2.840.113549.1": [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1],
};

const optional = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined });

function caseOf(profile: ProfileName): fc.Arbitrary<Case> {
  const rules = PROFILES[profile];
  const algorithms = rules.keyAlgorithms.filter((one) => one in KEYS);
  const when = (presence: string, arbitrary: fc.Arbitrary<string>) =>
    presence === "forbidden" ? fc.constant(undefined) : presence === "required" ? arbitrary : optional(arbitrary);
  const subject = fc.record({
    country: when(rules.subject.country, fc.constantFrom("DE", "US")),
    organization: when(rules.subject.organization, text),
    organizationalUnit: when(
      rules.subject.organizationalUnit,
      rules.subject.role === undefined ? text : fc.constant(rules.subject.role),
    ),
    commonName: rules.subject.commonNameForm === "device-id" ? deviceId : text,
    serialNumber: when(rules.subject.serialNumber, printable),
  });
  const bc = rules.basicConstraints;
  return fc
    .record({
      issuerKey: fc.constantFrom(...(rules.selfSigned ? algorithms : Object.keys(KEYS))),
      key: fc.constantFrom(...algorithms),
      serial: fc.uint8Array({ minLength: 16, maxLength: 20 }).map((bytes) => bytes.with(0, (bytes[0]! & 0x7f) | 1)),
      from: fc.integer({ min: 0, max: 40 * 365 * 86_400 }),
      days: fc.oneof(
        fc.integer({ min: 1, max: rules.validity.maxDays }),
        fc.constant(rules.validity.noExpiry ? Infinity : 1),
      ),
      subject,
      issuerName: fc.record({ organization: optional(text), commonName: text.map((name) => `${name} CA`) }),
      pathLen: bc.ca
        ? bc.pathLen === "required"
          ? fc.nat({ max: bc.maxPathLen })
          : optional(fc.nat({ max: bc.maxPathLen }))
        : fc.constant(undefined),
      dns: fc.array(dnsName, { minLength: 1, maxLength: 3 }),
      hardware: optional(
        fc.record({
          hwType: fc.constantFrom(...Object.keys(HARDWARE_TYPES)),
          hwSerialNum: fc.uint8Array({ minLength: 1, maxLength: 64 }),
        }),
      ),
      ip: optional(fc.oneof(fc.ipV4(), fc.constantFrom("2001:db8::1", "::1"))),
      crlUrl: when(
        rules.crlDistributionPoint,
        fc.constantFrom("http://crl.example/y.crl", "http://127.0.0.1:8080/crl/factory-y.crl"),
      ),
      permitted: fc.array(fc.record({ organization: text }), { minLength: 1, maxLength: 3 }),
    })
    .map((drawn) => {
      const { issuerKey, key, serial, from, days, subject: name, issuerName, ip, pathLen, crlUrl, permitted } = drawn;
      const notBefore = new Date(START + from * 1000);
      const wantsSan = rules.subjectAltName.presence !== "forbidden";
      const san: SubjectAltName[] = [];
      if (!rules.subjectAltName.kinds.includes("hardware-module")) {
        san.push(...drawn.dns.map((value) => ({ kind: "dns" as const, value })));
        if (ip !== undefined) san.push({ kind: "ip", value: ipOctets(ip) });
      } else if (drawn.hardware !== undefined) {
        san.push({ kind: "hardware-module", value: drawn.hardware });
      }
      return {
        profile,
        issuerKey: rules.selfSigned ? key : issuerKey,
        key,
        issuerName: rules.selfSigned ? name : issuerName,
        ipText: ip,
        params: {
          serial,
          notBefore,
          notAfter: days === Infinity ? NO_EXPIRY : new Date(notBefore.getTime() + days * DAY - 1000),
          subject: name,
          pathLen,
          crlUrl,
          san: wantsSan && san.length > 0 ? san : undefined,
          permittedNames: rules.nameConstraints === "required" ? permitted.map(buildName) : undefined,
        },
      };
    });
}

function issuerOf({ issuerName, issuerKey, params }: Case): IssuerInfo {
  return selfIssuer({
    name: issuerName,
    spki: KEYS[issuerKey]!.spki,
    notBefore: params.notBefore,
    notAfter: params.notAfter,
  });
}

const jsonName = (parts: NameParts): x509.JsonName =>
  [
    parts.country === undefined ? undefined : { C: [{ printableString: parts.country }] },
    parts.organization === undefined ? undefined : { O: [{ utf8String: parts.organization }] },
    parts.organizationalUnit === undefined ? undefined : { OU: [{ utf8String: parts.organizationalUnit }] },
    parts.commonName === undefined ? undefined : { CN: [{ utf8String: parts.commonName }] },
    parts.serialNumber === undefined ? undefined : { "2.5.4.5": [{ printableString: parts.serialNumber }] },
  ].filter((rdn) => rdn !== undefined) as unknown as x509.JsonName;

/** The same certificate by another library, from the profile's data alone. */
async function oracle(c: Case): Promise<Uint8Array> {
  const { params } = c;
  const rules = PROFILES[c.profile];
  const usage = rules.keyUsage.reduce((flags, bit) => flags | (1 << KEY_USAGE_BITS.indexOf(bit)), 0);
  const extensions: x509.Extension[] = [
    new x509.BasicConstraintsExtension(rules.basicConstraints.ca, params.pathLen, true),
    new x509.KeyUsagesExtension(usage, true),
  ];
  if (rules.extKeyUsage.length > 0) extensions.push(new x509.ExtendedKeyUsageExtension(rules.extKeyUsage));
  extensions.push(new x509.SubjectKeyIdentifierExtension(toHex(subjectKeyIdentifier(KEYS[c.key]!.spki))));
  extensions.push(new x509.AuthorityKeyIdentifierExtension(toHex(subjectKeyIdentifier(KEYS[c.issuerKey]!.spki))));
  if (params.san?.[0]?.kind === "hardware-module") {
    extensions.push(new x509.Extension(OID.subjectAltName, false, hardwareModuleSan(params.san[0].value)));
  } else if (params.san !== undefined) {
    const names = params.san.map((name) => ({
      type: name.kind as "dns" | "ip",
      value: name.kind === "ip" ? c.ipText! : (name.value as string),
    }));
    extensions.push(new x509.SubjectAlternativeNameExtension(names));
  }
  if (params.crlUrl !== undefined) extensions.push(new x509.CRLDistributionPointsExtension([params.crlUrl]));
  if (params.permittedNames !== undefined) {
    const subtrees = params.permittedNames.map((name) => {
      const inner = new Uint8Array([0xa4, ...lengthOf(name.length), ...name]);
      return [0x30, ...lengthOf(inner.length), ...inner];
    });
    const list = subtrees.flat();
    const permitted = [0xa0, ...lengthOf(list.length), ...list];
    const value = Uint8Array.from([0x30, ...lengthOf(permitted.length), ...permitted]);
    extensions.push(new x509.Extension(OID.nameConstraints, true, value));
  }
  if (c.profile === "ocsp-responder") {
    extensions.push(new x509.Extension("1.3.6.1.5.5.7.48.1.5", false, Uint8Array.of(5, 0)));
  }
  const algorithm = SIGNING[c.issuerKey]! as EcdsaParams;
  const signingKey = await webcrypto.subtle.importKey(
    "pkcs8",
    KEYS[c.issuerKey]!.privateKey.export({ type: "pkcs8", format: "der" }) as Buffer<ArrayBuffer>,
    algorithm as unknown as EcKeyImportParams,
    false,
    ["sign"],
  );
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: toHex(params.serial),
    issuer: jsonName(c.issuerName),
    subject: jsonName(params.subject),
    notBefore: params.notBefore,
    notAfter: params.notAfter,
    publicKey: new x509.PublicKey(KEYS[c.key]!.spki.slice().buffer as ArrayBuffer),
    signingAlgorithm: algorithm,
    signingKey: signingKey as CryptoKey,
    extensions,
  });
  return parseCertificate(new Uint8Array(certificate.rawData)).tbs;
}

/** GeneralNames with one otherName HardwareModuleName, after RFC 4108 section 5 by hand. */
function hardwareModuleSan({ hwType, hwSerialNum }: HardwareModuleName): Uint8Array<ArrayBuffer> {
  const wrap = (tag: number, content: readonly number[]): number[] => [tag, ...lengthOf(content.length), ...content];
  const module = wrap(0x30, [...wrap(0x06, HARDWARE_TYPES[hwType]!), ...wrap(0x04, [...hwSerialNum])]);
  const typeId = [0x06, 8, 0x2b, 6, 1, 5, 5, 7, 8, 4];
  return Uint8Array.from(wrap(0x30, wrap(0xa0, [...typeId, ...wrap(0xa0, module)])));
}

function lengthOf(length: number): number[] {
  return length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
}

/** For each profile; over all of them above 2,000 */
const RUNS = 160;

describe("TBSCertificates", () => {
  it.each(Object.keys(PROFILES) as ProfileName[])(
    "of profile %s are byte for byte another library's, and pass the linter",
    async (profile) => {
      await fc.assert(
        fc.asyncProperty(caseOf(profile), async (c) => {
          const issuer = issuerOf(c);
          const tbs = buildTbs(PROFILES[profile], { ...c.params, issuer, spki: KEYS[c.key]!.spki });
          expect(toHex(tbs)).toBe(toHex(await oracle(c)));
          if (PROFILES[profile].selfSigned || c.key !== c.issuerKey) {
            expect(toHex(lintTbs(tbs, PROFILES[profile], issuer).bytes)).toBe(toHex(tbs));
          }
        }),
        { numRuns: RUNS },
      );
    },
  );

  it("are the same bytes for the same parameters, whatever was built between", () => {
    const [c, other] = fc.sample(caseOf("ldevid"), 2) as [Case, Case];
    const issuer = issuerOf(c);
    const build = (one: Case) => toHex(buildTbs(PROFILES.ldevid, { ...one.params, issuer, spki: KEYS[c.key]!.spki }));
    const first = build(c);
    build(other);
    expect(build(c)).toBe(first);
  });

  it("keep a serial number of 20 octets with the top bit set at its magnitude, which the linter then refuses", () => {
    const [c] = fc.sample(caseOf("ldevid"), 1) as [Case];
    const serial = fromHex("ff".repeat(20));
    const issuer = issuerOf(c);
    const tbs = buildTbs(PROFILES.ldevid, { ...c.params, serial, issuer, spki: throwawayKey().spki });
    expect(toHex(tbs)).toContain(`021500${"ff".repeat(20)}`);
    expect(() => lintTbs(tbs, PROFILES.ldevid, issuer)).toThrow(/more than 20 octets/);
  });
});

describe("issued certificates", () => {
  it("satisfy openssl -x509_strict in every place of a chain, and say what the profile says", () => {
    const root = throwawayRoot({ organization: "Company X", commonName: "Company X Root" });
    const y = issueCa(
      root,
      { organization: "Factory Y", commonName: "Factory Y CA" },
      { pathLen: 1, crlUrl: "http://127.0.0.1/crl/x.crl" },
    );
    const z = issueCa(
      y,
      { organization: "Factory Y", commonName: "Technician Z CA" },
      {
        profile: "intermediate-linux",
        permittedNames: [buildName({ organization: "Factory Y" })],
      },
    );
    const device = issue(z, "ldevid", { organization: "Factory Y", commonName: "dev-1" }, throwawayKey().spki);
    const judged = openssl(["x509", "-noout", "-text"], pem(device));
    expect(judged.text).toMatch(/Subject: O = Factory Y, CN = dev-1/);
    expect(judged.text).toMatch(/Key Usage: critical\s+Digital Signature\n/);
    expect(judged.text).toMatch(/Extended Key Usage: \n?\s*TLS Web Client Authentication\n/);
    expect(judged.text).toMatch(/Basic Constraints: critical\s+CA:FALSE/);
    expect(openssl(["x509", "-noout", "-text"], pem(z.certificate)).text).toMatch(
      /Name Constraints: critical\s+Permitted:\s+DirName:O = Factory Y/,
    );
    expect(createPublicKey(`${pem(device)}`).asymmetricKeyType).toBe("ec");
    expect(issuerFromCertificate(y.certificate).pathLen).toBe(1);
  });
});
