import { describe, expect, it } from "vitest";
import { issue, issueCa, issueCrl, throwawayKey, throwawayRoot, type ThrowawayCa } from "../../test/support/issuing.ts";
import {
  rawCertificate,
  rawDefaults,
  rawExtension as ext,
  type RawCertificate,
} from "../../test/support/raw-certificate.ts";
import { buildName } from "./name.ts";
import { OID } from "./oids.ts";
import { validatePath, type PathRequest } from "./path.ts";
import { webCryptoVerify } from "./verify.ts";
import * as der from "./der-write.ts";
import type { Certificate } from "./certificate.ts";

const at = new Date(Math.floor(Date.now() / 1000) * 1000 + 60_000);
const root = throwawayRoot({ organization: "Company X", commonName: "Root" });
const y = issueCa(root, { organization: "Factory Y", commonName: "Y CA" }, { pathLen: 1 });
const z = issueCa(y, { organization: "Technician Z", commonName: "Z CA" });
const deviceKey = throwawayKey();
const device = issue(z, "ldevid", { commonName: "dev-1" }, deviceKey.spki);
const chain = [device, z.certificate, y.certificate];
const roots = [root.certificate];

async function outcome(changes: Partial<PathRequest> = {}): Promise<string> {
  const result = await validatePath({ chain, roots, at, verify: webCryptoVerify, ...changes });
  return result.ok ? result.path.map((one) => one.subject.cn).join(" < ") : `${result.reason}@${result.index}`;
}

/** A device's chain whose certificates below the root are described, not issued. */
function described(
  spoil: { ca?: (raw: RawCertificate) => void; leaf?: (raw: RawCertificate) => void },
  caKey = throwawayKey(),
) {
  const caName = buildName({ commonName: "CA" });
  const ca = rawDefaults({
    subject: caName,
    key: caKey,
    issuer: { subject: root.certificate.subject.der, key: root.key },
    serial: 2,
    at,
    extensions: [ext.basicConstraints(true), ext.keyUsage(["keyCertSign", "cRLSign"])],
  });
  const leaf = rawDefaults({
    subject: buildName({ commonName: "dev" }),
    key: throwawayKey(),
    issuer: { subject: caName, key: caKey },
    serial: 3,
    at,
    extensions: [ext.basicConstraints(false), ext.keyUsage(["digitalSignature"])],
  });
  const start = root.certificate.notBefore;
  for (const raw of [ca, leaf])
    raw.notBefore = der.encodeElement(
      0x17,
      new TextEncoder().encode(`${start.toISOString().slice(2, 19).replace(/[-T:]/g, "")}Z`),
    );
  spoil.ca?.(ca);
  spoil.leaf?.(leaf);
  return [rawCertificate(leaf), rawCertificate(ca)];
}

describe("a good path", () => {
  const path = "dev-1 < Z CA < Y CA < Root";
  it("is found in any order, parsed or not, with the root, doubles or strangers in between", async () => {
    const stranger = throwawayRoot({ commonName: "Stranger" });
    const other = issue(stranger, "idevid", { commonName: "other" }, throwawayKey().spki);
    expect(await outcome()).toBe(path);
    expect(await outcome({ chain: chain.map((one) => one.der) })).toBe(path);
    expect(await outcome({ chain: [device, y.certificate, z.certificate] })).toBe(path);
    expect(
      await outcome({
        chain: [device, other, root.certificate, y.certificate, y.certificate, stranger.certificate, z.certificate],
      }),
    ).toBe(path);
    expect(await outcome({ roots: [stranger.certificate, root.certificate.der], purpose: "clientAuth" })).toBe(path);
  });

  it("is found past a root and a CA of the same names but other keys", async () => {
    const twinRoot = throwawayRoot({ organization: "Company X", commonName: "Root" });
    const twinY = issueCa(twinRoot, { organization: "Factory Y", commonName: "Y CA" }, { pathLen: 1 });
    expect(
      await outcome({
        chain: [device, z.certificate, twinY.certificate, y.certificate],
        roots: [twinRoot.certificate, root.certificate],
      }),
    ).toBe(path);
    expect(await outcome({ chain: [device, z.certificate, twinY.certificate], roots: [twinRoot.certificate] })).toBe(
      "signature-invalid@1",
    );
  });

  it("may end at an intermediate only if partial chains are allowed", async () => {
    expect(await outcome({ roots: [y.certificate] })).toBe("root-not-self-issued@2");
    expect(await outcome({ roots: [y.certificate], partialChain: true })).toBe("dev-1 < Z CA < Y CA");
  });

  it("by every key algorithm we take is accepted", async () => {
    for (const algorithm of ["ec-p384", "ed25519", "rsa-3072"] as const) {
      const own = throwawayRoot({ commonName: algorithm }, throwawayKey(algorithm));
      const leaf = issue(own, "idevid", { commonName: "dev" }, throwawayKey("ed25519").spki);
      expect(await outcome({ chain: [leaf], roots: [own.certificate] })).toBe(`dev < ${algorithm}`);
    }
  });
});

describe("a path is refused", () => {
  const stranger = throwawayRoot({ commonName: "Stranger" });
  const deep = issueCa(
    { key: z.key, certificate: { ...z.certificate, basicConstraints: { ca: true, pathLen: 5 } } },
    { commonName: "Too deep" },
  );
  const belowDevice: ThrowawayCa = { key: deviceKey, certificate: device };
  const fakeCa = {
    ...belowDevice,
    certificate: {
      ...device,
      basicConstraints: { ca: true, pathLen: undefined },
      keyUsage: ["keyCertSign" as const],
    } as Certificate,
  };

  it.each<[string, Partial<PathRequest>]>([
    ["chain-empty@0", { chain: [] }],
    ["chain-too-long@64", { chain: Array.from({ length: 65 }, () => device) }],
    ["roots-missing@0", { roots: [] }],
    ["leaf-is-root@0", { chain: [root.certificate] }],
    ["certificate-malformed@1", { chain: [device, Uint8Array.of(1, 2, 3)] }],
    ["certificate-malformed@0", { roots: [Uint8Array.of(1, 2, 3)] }],
    ["certificate-malformed@0", { chain: [new Uint8Array(70_000)] }],
    ["issuer-unknown@0", { roots: [stranger.certificate], chain: [device] }],
    ["issuer-unknown@0", { chain: [device, y.certificate] }],
    ["expired@3", { at: new Date("2099-01-01") }],
    ["not-yet-valid@3", { at: new Date("2020-01-01") }],
    ["expired@0", { at: device.notAfter }],
    ["extended-key-usage@0", { purpose: "serverAuth" }],
    [
      "path-length-exceeded@1",
      { chain: [issue(deep, "idevid", { commonName: "d" }, throwawayKey().spki), deep.certificate, ...chain] },
    ],
    ["not-a-ca@1", { chain: [issue(fakeCa, "idevid", { commonName: "d" }, throwawayKey().spki), ...chain] }],
    ["crl-malformed@0", { crls: [Uint8Array.of(1)] }],
  ])("as %s (case %#)", async (expected, request) => {
    expect(await outcome(request)).toBe(expected);
  });

  it.each<[string, Parameters<typeof described>[0]]>([
    ["dev < CA < Root", {}],
    [
      "not-a-ca@1",
      {
        ca: (raw) => {
          raw.extensions[0] = ext.basicConstraints(false);
          raw.extensions[1] = ext.keyUsage(["cRLSign"]);
        },
      },
    ],
    ["key-usage@1", { ca: (raw) => void (raw.extensions[1] = ext.keyUsage(["cRLSign"])) }],
    ["basic-constraints@1", { ca: (raw) => void (raw.extensions[0] = ext.basicConstraints(true, 0, false)) }],
    ["key-usage@0", { leaf: (raw) => void (raw.extensions[1] = ext.keyUsage(["keyCertSign"])) }],
    ["extension-unknown@0", { leaf: (raw) => void raw.extensions.push(ext.any("1.2.3.4", true)) }],
    ["extension-unknown@1", { ca: (raw) => void raw.extensions.push(ext.any("1.2.3.4", true)) }],
    ["dev < CA < Root", { leaf: (raw) => void raw.extensions.push(ext.any("1.2.3.4", false)) }],
    [
      "extension-duplicate@0",
      { leaf: (raw) => void raw.extensions.push(ext.any("1.2.3.4", false), ext.any("1.2.3.4", false)) },
    ],
    ["extension-critical@0", { leaf: (raw) => void (raw.extensions[2] = { ...raw.extensions[2]!, critical: true }) }],
    ["key-identifier-missing@0", { leaf: (raw) => void raw.extensions.pop() }],
    ["key-identifier-mismatch@0", { leaf: (raw) => void (raw.extensions[3] = ext.aki(throwawayKey().spki)) }],
    ["signature-invalid@0", { leaf: (raw) => void (raw.spoilSignature = true) }],
    [
      "signature-algorithm-mismatch@0",
      { leaf: (raw) => void (raw.outerAlgorithm = der.sequence(der.oid(OID.ed25519))) },
    ],
    [
      "signature-algorithm-unsupported@0",
      { leaf: (raw) => void (raw.innerAlgorithm = raw.outerAlgorithm = der.sequence(der.oid("1.2.840.10045.4.1"))) },
    ],
    ["key-weak@0", { leaf: (raw) => void (raw.spki = raw.spki.with(80, raw.spki[80]! ^ 1)) }],
    [
      "policy-not-satisfied@0",
      {
        ca: (raw) =>
          void raw.extensions.push(
            ext.any(OID.policyConstraints, true, der.sequence(der.implicit(0, Uint8Array.of(0)))),
          ),
      },
    ],
    ["name-empty@0", { leaf: (raw) => void (raw.subject = der.sequence()) }],
    [
      "extended-key-usage@0",
      {
        ca: (raw) => void raw.extensions.push(ext.extKeyUsage([OID.serverAuth])),
        leaf: (raw) => void raw.extensions.push(ext.extKeyUsage([OID.clientAuth])),
      },
    ],
    [
      "name-constraint-violated@0",
      {
        ca: (raw) =>
          void raw.extensions.push(ext.nameConstraints([der.explicit(4, buildName({ organization: "Y" }))], [])),
      },
    ],
    [
      "dev < CA < Root",
      { ca: (raw) => void raw.extensions.push(ext.nameConstraints([], [der.implicit(8, Uint8Array.of(42))])) },
    ],
    [
      "name-constraint-unsupported@0",
      {
        ca: (raw) => void raw.extensions.push(ext.nameConstraints([], [der.implicit(8, Uint8Array.of(42))])),
        leaf: (raw) =>
          void raw.extensions.push(
            ext.any(OID.subjectAltName, false, der.sequence(der.implicit(8, Uint8Array.of(43)))),
          ),
      },
    ],
    [
      "basic-constraints@0",
      { leaf: (raw) => void raw.extensions.push(ext.nameConstraints([der.explicit(4, der.sequence())], [])) },
    ],
  ])("as %s (described, case %#)", async (expected, spoil) => {
    expect(await outcome({ chain: described(spoil) })).toBe(expected);
  });

  it("when `verify` says anything but true", async () => {
    for (const answer of [false, undefined, 1, "true"]) {
      expect(await outcome({ verify: () => answer as boolean })).toMatch(/^signature-invalid/);
    }
  });

  it("when its time is no time, rather than everything being valid", async () => {
    await expect(outcome({ at: new Date(Number.NaN) })).rejects.toMatchObject({ code: "input-invalid" });
  });

  it("in bounded steps, however many certificates claim each other's names", async () => {
    const keys = Array.from({ length: 9 }, () => throwawayKey());
    const name = buildName({ commonName: "Loop" });
    const twins = keys.map((key, i) =>
      rawCertificate(
        rawDefaults({
          subject: name,
          key,
          issuer: { subject: name, key: keys[(i + 1) % 9]! },
          serial: i + 1,
          at,
          extensions: [ext.basicConstraints(true), ext.keyUsage(["keyCertSign"])],
        }),
      ),
    );
    const leaf = rawCertificate(
      rawDefaults({
        subject: buildName({ commonName: "dev" }),
        key: throwawayKey(),
        issuer: { subject: name, key: keys[0]! },
        serial: 99,
        at,
        extensions: [],
      }),
    );
    let checks = 0;
    const verify = async (check: Parameters<typeof webCryptoVerify>[0]): Promise<boolean> => (
      checks++,
      webCryptoVerify(check)
    );
    expect(await outcome({ chain: [leaf, ...twins], verify })).toMatch(
      /^(issuer-unknown|search-limit|signature-invalid)/,
    );
    checks = 0;
    expect(await outcome({ chain: [leaf, ...twins], verify: () => (checks++, true) })).toMatch(
      /^(search-limit|issuer-unknown)/,
    );
    expect(checks).toBeLessThanOrEqual(100);
  });
});

describe("revocation", () => {
  const now = new Date(Math.floor(Date.now() / 1000) * 1000);
  const hours = (n: number): Date => new Date(now.getTime() + n * 3_600_000);
  const revoked = (certificate: Certificate) => ({
    serial: certificate.serial,
    revokedAt: now,
    reason: "keyCompromise" as const,
  });
  const crl = (ca: ThrowawayCa, params: Parameters<typeof issueCrl>[1] = {}) =>
    issueCrl(ca, { thisUpdate: now, nextUpdate: hours(24), ...params });
  const path = "dev-1 < Z CA < Y CA < Root";

  it("of any certificate in the path refuses it", async () => {
    expect(await outcome({ crls: [crl(z, { revoked: [revoked(device)] })] })).toBe("revoked@0");
    expect(await outcome({ crls: [crl(y, { revoked: [revoked(z.certificate)] })] })).toBe("revoked@1");
    expect(await outcome({ crls: [crl(root, { revoked: [revoked(y.certificate)] })] })).toBe("revoked@2");
    expect(await outcome({ crls: [crl(z, { revoked: [revoked(y.certificate)] }), crl(y), crl(root)] })).toBe(path);
  });

  it("says what it looked at, and can be demanded", async () => {
    const result = await validatePath({ chain, roots, at, crls: [crl(z), crl(root)], verify: webCryptoVerify });
    expect(result).toMatchObject({ ok: true, revocationChecked: [true, false, true] });
    expect(await outcome({ revocation: "leaf" })).toBe("crl-missing@0");
    expect(await outcome({ revocation: "leaf", crls: [crl(z)] })).toBe(path);
    expect(await outcome({ revocation: "all", crls: [crl(z)] })).toBe("crl-missing@1");
    expect(await outcome({ revocation: "all", crls: [crl(z), crl(y), crl(root)] })).toBe(path);
  });

  it("goes by the newest CRL, which must be current", async () => {
    const old = crl(z, { thisUpdate: hours(-48), nextUpdate: hours(-24), revoked: [] });
    const hold = crl(z, {
      number: 2n,
      thisUpdate: hours(-2),
      nextUpdate: hours(24),
      revoked: [{ ...revoked(device), revokedAt: hours(-3) }],
    });
    const released = crl(z, { number: 3n, thisUpdate: hours(-1), nextUpdate: hours(24) });
    expect(await outcome({ crls: [old] })).toBe("crl-stale@0");
    expect(await outcome({ crls: [old, hold] })).toBe("revoked@0");
    expect(await outcome({ crls: [released, hold] })).toBe(path);
    expect(await outcome({ crls: [crl(z, { thisUpdate: hours(2), nextUpdate: hours(3) })] })).toBe(
      "crl-not-yet-valid@0",
    );
  });

  it("isn't hidden or forged by a CRL of another signer", async () => {
    const forged = crl({ key: throwawayKey(), certificate: z.certificate }, { number: 9n, thisUpdate: now });
    expect(await outcome({ crls: [forged] })).toBe("crl-signature-invalid@0");
    expect(await outcome({ crls: [forged, crl(z, { revoked: [revoked(device)] })] })).toBe("revoked@0");
    expect(await outcome({ crls: [forged, crl(z)] })).toBe(path);
  });
});
