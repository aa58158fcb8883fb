import { describe, expect, it } from "vitest";
import { issue, issueCa, pem, throwawayKey, throwawayRoot } from "../../test/support/issuing.ts";
import { mbedtlsParse } from "../../test/support/mbedtls.ts";
import { concatBytes, utf8 } from "../domain/bytes.ts";
import { parseCertificate } from "./certificate.ts";
import { chainPem } from "./chain.ts";
import { buildName } from "./name.ts";
import { NO_EXPIRY } from "./time.ts";

const pemNul = (text: string): Uint8Array => utf8(`${text}\0`);

describe("chains of the embedded profile, in Debian's mbedTLS", () => {
  it.each(["ec-p256", "ec-p384", "rsa-3072"] as const)("are parsed and verified with %s CAs", (algorithm) => {
    const root = throwawayRoot({ organization: "Company X", commonName: "Company X Root" }, throwawayKey(algorithm));
    const y = issueCa(
      root,
      { organization: "Factory Y", commonName: "Factory Y CA" },
      { pathLen: 1, key: throwawayKey(algorithm), crlUrl: "http://crl.example/x.crl" },
    );
    const z = issueCa(
      y,
      { organization: "Technician Z", commonName: "Technician Z CA" },
      { key: throwawayKey(algorithm) },
    );
    for (const profile of ["idevid", "ldevid"] as const) {
      const device = issue(z, profile, { organization: "Company X", commonName: "dev:0001" }, throwawayKey().spki);
      const answer = mbedtlsParse(
        pemNul(chainPem([device, z.certificate, y.certificate, root.certificate])),
        root.certificate.der,
      );
      expect(answer).toMatchObject({ ok: true });
      if (!answer.ok) return;
      expect(answer.certificates.map((der) => parseCertificate(der).subject.cn)).toEqual([
        "dev:0001",
        "Technician Z CA",
        "Factory Y CA",
      ]);
    }
  });

  it("without expiry are parsed", () => {
    const root = throwawayRoot({ commonName: "Root" }, throwawayKey(), { days: "no-expiry" });
    const device = issue(root, "idevid", { commonName: "dev" }, throwawayKey().spki, { days: "no-expiry" });
    expect(device.notAfter).toEqual(NO_EXPIRY);
    expect(mbedtlsParse(pemNul(pem(device)), root.certificate.der)).toMatchObject({ ok: true });
  });

  it("are lost without the final NUL as PEM, and need one call a certificate as DER", () => {
    const root = throwawayRoot({ commonName: "Root" });
    const y = issueCa(root, { commonName: "Y" });
    const device = issue(y, "ldevid", { commonName: "dev" }, throwawayKey().spki);
    expect(mbedtlsParse(utf8(pem(device, y.certificate)))).toMatchObject({ ok: false });
    const bare = mbedtlsParse(concatBytes(device.der, y.certificate.der));
    expect(bare.ok && bare.certificates).toEqual([device.der, y.certificate.der]);
  });

  it("may not carry the linux profile's name constraints", () => {
    const root = throwawayRoot({ commonName: "Root" });
    const linux = issueCa(
      root,
      { organization: "Y", commonName: "Y" },
      { profile: "intermediate-linux", permittedNames: [buildName({ organization: "Y" })] },
    );
    expect(mbedtlsParse(pemNul(pem(linux.certificate)))).toMatchObject({ ok: false });
  });
});
