import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { auditWorld } from "../../../test/support/audit-world.ts";
import { issue, issueCa, throwawayKey, throwawayRoot, type ThrowawayCa } from "../../../test/support/issuing.ts";
import { testWorld, type WorldOptions } from "../../../test/support/world.ts";
import { utf8 } from "../../domain/bytes.ts";
import { canonicalJson } from "../../domain/json.ts";
import type { Certificate } from "../../pki/certificate.ts";
import type { SubjectAltName } from "../../pki/general-name.ts";
import type { CertificateSettings } from "../../records/certificate-settings.ts";
import { settingsFault } from "./lot-settings.ts";

const TYPE = "1.3.6.1.4.1.99999.1";
const moduleOf = (hwType: string, number: string): { san: SubjectAltName[] } => ({
  san: [{ kind: "hardware-module", value: { hwType, hwSerialNum: utf8(number) } }],
});

describe("a certificate against its lot's settings", () => {
  const { spki } = throwawayKey();
  const at = new Date();
  let ca: ThrowawayCa;
  beforeAll(() => {
    const endless = { days: "no-expiry", at } as const;
    ca = issueCa(throwawayRoot({ commonName: "Root" }, undefined, endless), { commonName: "CA" }, endless);
  });
  const made = (settings: CertificateSettings): Certificate => {
    const { days, hardwareType } = settings;
    const san = hardwareType === undefined ? {} : moduleOf(hardwareType, "dev-1");
    return issue(ca, "idevid", { commonName: "dev-1" }, spki, {
      at,
      ...(days === undefined ? {} : { days }),
      ...san,
    });
  };
  const days = fc.option(fc.oneof(fc.integer({ min: 1, max: 3000 }), fc.constant("no-expiry" as const)), {
    nil: undefined,
  });
  const hardwareType = fc.option(fc.constantFrom(TYPE, `${TYPE}.2`), { nil: undefined });
  const settings = fc.record({ days, hardwareType }).map(({ days: d, hardwareType: h }) => ({
    ...(d === undefined ? {} : { days: d }),
    ...(h === undefined ? {} : { hardwareType: h }),
  }));

  it("holds what was asked for, and nothing else", () => {
    fc.assert(
      fc.property(settings, settings, (asked, said) => {
        const certificate = made(asked);
        expect(settingsFault(certificate, "idevid", ca.certificate, asked)).toBeUndefined();
        const sameEnd = made(said).notAfter.getTime() === certificate.notAfter.getTime();
        const same = sameEnd && asked.hardwareType === said.hardwareType;
        expect(settingsFault(certificate, "idevid", ca.certificate, said) === undefined).toBe(same);
      }),
      { numRuns: 60 },
    );
  });

  it("names its own device as the module, once", () => {
    const of = (san: SubjectAltName[]) => issue(ca, "idevid", { commonName: "dev-1" }, spki, { san });
    const fault = (certificate: Certificate, said: CertificateSettings) =>
      settingsFault(certificate, "idevid", ca.certificate, said);
    expect(fault(of(moduleOf(TYPE, "dev-1").san), { hardwareType: TYPE })).toBeUndefined();
    expect(fault(of(moduleOf(TYPE, "dev-2").san), { hardwareType: TYPE })).toMatch(/hardware module/);
    expect(fault(of(moduleOf(TYPE, "dev-1").san), {})).toMatch(/settings none/);
    expect(fault(made({}), { hardwareType: TYPE })).toMatch(/hardware module/);
  });
});

describe("an audit of lots with settings", () => {
  async function findings(options: WorldOptions) {
    const report = await auditWorld(await testWorld(1, options));
    return report.findings.filter(({ severity }) => severity === "error").map(({ code, message }) => [code, message]);
  }
  const saying = (settings: object): Uint8Array[] => [canonicalJson(settings)];

  const both = (settings: object) => ({ settings: { y: saying(settings) } });
  const DEVICE = "DEV-00001";

  it("finds nothing where certificates are as the lot says", async () => {
    expect(await findings({})).toEqual([]);
    expect(await findings({ ...both({ days: 30 }), certificate: { days: 30 } })).toEqual([]);
    expect(await findings({ ...both({ hardwareType: TYPE }), certificate: moduleOf(TYPE, DEVICE) })).toEqual([]);
  });

  it.each<[string, WorldOptions]>([
    ["a validity that the lot doesn't have", { certificate: { days: 30 } }],
    ["a longer validity than the lot's", { ...both({ days: 30 }), certificate: { days: 31 } }],
    ["the profile's validity where the lot has its own", both({ days: 30 })],
    ["no hardware module where the lot has a type", both({ hardwareType: TYPE })],
    ["another type", { ...both({ hardwareType: TYPE }), certificate: moduleOf(`${TYPE}.7`, DEVICE) }],
    ["another device's number", { ...both({ hardwareType: TYPE }), certificate: moduleOf(TYPE, "DEV-00002") }],
    ["a module that nobody asked for", { certificate: moduleOf(TYPE, DEVICE) }],
  ])("finds %s", async (_what, world) => {
    expect(await findings(world)).toEqual([["certificate-invalid", expect.stringMatching(/lot's settings/)]]);
  });

  it("finds settings that differ, are double, or can't be read", async () => {
    const certificate = { days: 30 };
    const thirty = saying(certificate);
    const lotInvalid = (message: RegExp) =>
      expect.arrayContaining([["lot-invalid", expect.stringMatching(message)]]) as unknown;
    const said = (y: readonly Uint8Array[], z = y) => findings({ settings: { y, z }, certificate });
    expect(await said([], thirty)).toEqual(lotInvalid(/differ/));
    expect(await said(saying({ days: 31 }), thirty)).toEqual(lotInvalid(/differ/));
    expect(await said([...thirty, ...saying({ days: 31 })])).toEqual(lotInvalid(/two settings/));
    for (const bytes of [utf8("{"), canonicalJson({ days: -1 }), canonicalJson({ day: 3 })]) {
      expect(await said([bytes])).toEqual(lotInvalid(/can't be read/));
    }
  });
});
