import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { beforeAll, describe, expect, it } from "vitest";
import { nodeVerify } from "../../hsm/verify.ts";
import { dice, spoil } from "../../test/support/fuzz.ts";
import { issueCrl, makeCsr, throwawayKey, throwawayRoot } from "../../test/support/issuing.ts";
import { certificatesOfEveryProfile } from "../../test/support/profile-certificates.ts";
import { isCountersignError } from "../domain/errors.ts";
import type { KeyAlgorithm } from "../domain/signing.ts";
import { parseCertificate, parseTbsCertificate } from "./certificate.ts";
import { parseCrl } from "./crl.ts";
import { checkCsr, parseCsr } from "./csr.ts";
import { issuerFromCertificate } from "./issuer.ts";
import { lintTbs } from "./lint.ts";
import { validatePath } from "./path.ts";
import { PROFILES } from "./profiles.ts";

const COUNT = Number(process.env["FUZZ_COUNT"] ?? 10_000);
const SEED = Number(process.env["FUZZ_SEED"] ?? 20261122);
/** CPU time of the worst single input; an honest one takes some microseconds. */
const LIMIT_MS = 50;

const collectGarbage = ((): (() => void) => {
  setFlagsFromString("--expose-gc");
  return runInNewContext("gc") as () => void;
})();

interface Report {
  read: number;
  refused: number;
  largest: number;
  worstMs: number;
  grownBytes: number;
}

/** Every input ends in a value or a typed refusal, in bounded time, and leaves nothing behind. */
function fuzz(samples: readonly Uint8Array[], parse: (bytes: Uint8Array) => unknown, count = COUNT): Report {
  const report: Report = { read: 0, refused: 0, largest: 0, worstMs: 0, grownBytes: 0 };
  for (const sample of samples) parse(sample);
  const roll = dice(SEED);
  let before = 0;
  for (let i = 0; i < count; i++) {
    if (i === count >> 1) {
      collectGarbage();
      before = process.memoryUsage().heapUsed;
    }
    const bytes = spoil(samples[i % samples.length]!, roll);
    report.largest = Math.max(report.largest, bytes.length);
    const start = process.threadCpuUsage();
    try {
      parse(bytes);
      report.read++;
    } catch (error) {
      // Anything else is a crash: let it be seen as it is
      if (!isCountersignError(error) || error.kind === "internal") throw error;
      report.refused++;
    }
    const { user, system } = process.threadCpuUsage(start);
    report.worstMs = Math.max(report.worstMs, (user + system) / 1000);
  }
  collectGarbage();
  report.grownBytes = process.memoryUsage().heapUsed - before;
  return report;
}

function judge(what: string, report: Report): void {
  const { read, refused, largest, worstMs, grownBytes } = report;
  console.log(
    `fuzz ${what}: ${refused + read} inputs, ${refused} refused, ${read} read, up to ${largest} octets; ` +
      `the worst took ${worstMs.toFixed(1)} ms CPU; the heap grew by ${Math.round(grownBytes / 1024)} KiB in the latter half`,
  );
  expect(refused).toBeGreaterThan(read);
  expect(read).toBeGreaterThan(0);
  expect(largest).toBeGreaterThan(64 * 1024);
  expect(worstMs).toBeLessThan(LIMIT_MS);
  expect(grownBytes).toBeLessThan(4 * 1024 * 1024);
}

describe("spoiled inputs", { timeout: 240_000 }, () => {
  let certificates: Uint8Array[];
  beforeAll(() => {
    certificates = certificatesOfEveryProfile()
      .filter(({ name }) => /under (ec-p256|rsa-3072)/.test(name))
      .map(({ certificate }) => certificate.der);
  });

  it("as CSRs", () => {
    const kinds: KeyAlgorithm[] = ["ec-p256", "ec-p384", "ed25519", "rsa-2048", "rsa-4096"];
    const samples = kinds.map((kind) => makeCsr(throwawayKey(kind), { cn: "dev-1", challengePassword: "pw" }));
    judge("CSRs", fuzz(samples, parseCsr));
  });

  it("as certificates", () => {
    judge("certificates", fuzz(certificates, parseCertificate));
  });

  it("as CRLs", () => {
    const ca = throwawayRoot({ commonName: "CA" });
    const revokedAt = new Date("2026-01-01T00:00:00Z");
    const revoked = Array.from({ length: 5 }, (_, i) => ({
      serial: `0${i + 1}`,
      revokedAt,
      reason: "superseded" as const,
    }));
    judge("CRLs", fuzz([issueCrl(ca), issueCrl(ca, { revoked })], parseCrl, COUNT / 4));
  });

  it("as bytes to be signed", () => {
    const ca = throwawayRoot({ commonName: "Root" });
    const issuer = issuerFromCertificate(ca.certificate);
    const samples = certificates.map((der) => parseCertificate(der).tbs);
    judge(
      "TBSCertificates",
      fuzz(
        samples,
        (bytes) => {
          const parsed = parseTbsCertificate(bytes);
          try {
            lintTbs(bytes, PROFILES.ldevid, issuer);
          } catch (error) {
            if (!isCountersignError(error)) throw error;
          }
          return parsed;
        },
        COUNT / 4,
      ),
    );
  });

  it("as proofs of possession and paths end in a typed answer too", async () => {
    const key = throwawayKey();
    const csr = makeCsr(key, { cn: "dev-1" });
    const root = throwawayRoot({ commonName: "Root" });
    const roll = dice(SEED);
    let good = 0;
    for (let i = 0; i < COUNT / 10; i++) {
      try {
        await checkCsr(parseCsr(spoil(csr, roll)), nodeVerify);
        good++;
      } catch (error) {
        if (!isCountersignError(error) || error.kind === "internal") throw error;
      }
      const chain = [
        certificates[i % certificates.length]!,
        spoil(certificates[0]!, roll),
        spoil(certificates[9]!, roll),
      ];
      const result = await validatePath({
        chain: roll(2) === 0 ? chain : chain.toReversed(),
        roots: [root.certificate, spoil(root.certificate.der, roll)],
        at: new Date(),
        crls: roll(4) === 0 ? [spoil(csr, roll)] : [],
        verify: nodeVerify,
      });
      expect(result.ok).toBe(false);
    }
    // Spoiled twice so that it is whole again, at most
    expect(good).toBeLessThan(5);
  });
});
