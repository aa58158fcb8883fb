import { readFileSync } from "node:fs";
import { join } from "node:path";
import { format, resolveConfig } from "prettier";
import { describe, expect, it } from "vitest";
import { profilesPage } from "./profiles-page.ts";
import { errorCodeOf } from "../domain/errors.ts";
import { validityFor } from "./issuer.ts";
import { parseProfile } from "./profile-schema.ts";
import { PROFILES, profileDigest, profileNamed } from "./profiles.ts";
import { NO_EXPIRY } from "./time.ts";

const codeOf = (run: () => unknown): string => {
  try {
    run();
    return "ok";
  } catch (error) {
    return errorCodeOf(error);
  }
};

describe("certificate profiles", () => {
  it("have the names and digests that grants pin", () => {
    const digests = Object.fromEntries(Object.keys(PROFILES).map((name) => [name, profileDigest(name).slice(0, 16)]));
    expect(digests).toMatchInlineSnapshot(`
      {
        "client": "ff6271e30dfbc19d",
        "hub-verification": "731b58b9375bfe99",
        "idevid": "aff96dd858b906a3",
        "infra-ca": "6d5e5449b5f984df",
        "intermediate-embedded": "01cab5d6bf4be703",
        "intermediate-linux": "78bbb2591e90463e",
        "ldevid": "2e80552c76fe407c",
        "monitor": "f06875f28c5019b8",
        "ocsp-responder": "2f38357de0dbc5ab",
        "operator": "7e754d039efc4d3a",
        "root": "5388b88d6dc3639b",
        "server": "8a8eeb6031678271",
        "station": "73dc1d0eae378ced",
        "technician": "728410c490820c38",
      }
    `);
    for (const [name, profile] of Object.entries(PROFILES)) expect(profile.name).toBe(name);
    expect(codeOf(() => profileNamed("toString"))).toBe("profile-invalid");
  });

  it("stand in docs/profiles.md as they are", async () => {
    const page = join(import.meta.dirname, "..", "..", "docs", "profiles.md");
    const options = { ...(await resolveConfig(page)), filepath: page };
    expect(readFileSync(page, "utf8"), "run npm run docs").toBe(await format(profilesPage(), options));
  });

  const good = PROFILES.ldevid;
  it.each([
    ["an unknown field", { ...good, notes: "x" }],
    ["keyCertSign without ca", { ...good, keyUsage: ["keyCertSign"] }],
    ["cRLSign without ca", { ...good, keyUsage: ["digitalSignature", "cRLSign"] }],
    ["ca without keyCertSign", { ...PROFILES.root, keyUsage: ["cRLSign"] }],
    ["name constraints without ca", { ...good, nameConstraints: "optional" }],
    ["a default validity above the maximum", { ...good, validity: { ...good.validity, defaultDays: 4000 } }],
    ["an unknown key usage", { ...good, keyUsage: ["signEverything"] }],
    ["a malformed key purpose", { ...good, extKeyUsage: ["clientAuth"] }],
    [
      "a role in a unit that may be left out",
      { ...PROFILES.client, subject: { ...PROFILES.client.subject, role: "x" } },
    ],
    ["OCSP signing that is checked itself", { ...PROFILES["ocsp-responder"], ocspNoCheck: false }],
    ["ocsp-nocheck without OCSP signing", { ...good, ocspNoCheck: true }],
    ["alternative names of no kind", { ...good, subjectAltName: { presence: "optional", kinds: [] } }],
    ["no key algorithm", { ...good, keyAlgorithms: [] }],
    ["nothing", undefined],
  ])("are refused with %s", (_what, data) => {
    expect(codeOf(() => parseProfile(data))).toBe("profile-invalid");
  });

  it("let no device or infrastructure profile pass for a CA, and give devices no server purpose", () => {
    const cas = ["root", "intermediate-embedded", "intermediate-linux", "infra-ca"];
    for (const [name, { basicConstraints }] of Object.entries(PROFILES)) {
      expect(basicConstraints.ca, name).toBe(cas.includes(name));
    }
    expect(PROFILES.server.extKeyUsage).not.toContain(PROFILES.ldevid.extKeyUsage[0]);
    expect(PROFILES["infra-ca"].basicConstraints).toMatchObject({ maxPathLen: 0, pathLen: "required" });
  });
});

describe("validity", () => {
  const now = new Date("2026-11-22T12:00:00.500Z");
  const issuer = { notBefore: new Date("2026-01-01T00:00:00Z"), notAfter: new Date("2027-01-01T00:00:00Z") };

  it("starts now in whole seconds, runs for the profile's default and ends inclusively", () => {
    const { notBefore, notAfter } = validityFor(PROFILES.ldevid, now, undefined);
    expect(notBefore.toISOString()).toBe("2026-11-22T12:00:00.000Z");
    expect(notAfter.toISOString()).toBe("2027-11-22T11:59:59.000Z");
  });

  it("is cut to the profile's maximum and the issuer's end", () => {
    expect(validityFor(PROFILES.ldevid, now, issuer).notAfter).toEqual(issuer.notAfter);
    const { notBefore, notAfter } = validityFor(PROFILES.server, now, undefined, 10_000);
    expect((notAfter.getTime() + 1000 - notBefore.getTime()) / 86_400_000).toBe(398);
  });

  it("is refused where the issuer isn't valid", () => {
    expect(codeOf(() => validityFor(PROFILES.ldevid, new Date("2028-01-01"), issuer))).toBe("profile-violation");
    expect(codeOf(() => validityFor(PROFILES.ldevid, new Date("2025-01-01"), issuer))).toBe("profile-violation");
  });

  it("never ends only where profile and issuer allow it", () => {
    const endless = { ...issuer, notAfter: NO_EXPIRY };
    expect(validityFor(PROFILES.idevid, now, endless, "no-expiry").notAfter).toEqual(NO_EXPIRY);
    expect(codeOf(() => validityFor(PROFILES.idevid, now, issuer, "no-expiry"))).toBe("profile-violation");
    expect(codeOf(() => validityFor(PROFILES.ldevid, now, endless, "no-expiry"))).toBe("profile-violation");
  });
});
