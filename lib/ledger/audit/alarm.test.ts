import { beforeAll, describe, expect, it } from "vitest";
import { auditWorld } from "../../../test/support/audit-world.ts";
import { issue, throwawayKey } from "../../../test/support/issuing.ts";
import { sha, testWorld, type TestWorld } from "../../../test/support/world.ts";
import { fromBase64, toBase64 } from "../../domain/bytes.ts";
import { keyId } from "../../pki/spki.ts";
import { parseEntry, type Act } from "../../records/statement.ts";
import type { ActFields } from "../../records/acts.ts";

/** What an audit says of a party's own alarm. */
describe("an alarm", () => {
  let world: TestWorld;
  beforeAll(async () => {
    world = await testWorld(1);
  });

  const findings = (der: Uint8Array, subject = sha(der)) =>
    raised({ what: "unlogged-certificate", evidence: { certificate: toBase64(der) } }, subject);

  /** Technician-Z's alarm, at the end of its ledger; gives the audit's findings. */
  async function raised(fields: ActFields<"alarm">, subject: string) {
    const { z } = world;
    const { act } = parseEntry(z.log.entries.find((entry) => parseEntry(entry).act.type === "certified")!);
    const name = { name: z.id, digest: { sha256: subject } };
    await z.signed("alarm", name, fields, act.grant === undefined ? {} : { grant: act.grant });
    await z.publish();
    const report = await auditWorld(world);
    return report.findings.filter(({ index }) => index === z.log.entries.length - 1);
  }

  it("over a certificate outside the ledger is true, and open", async () => {
    const { der } = issue(world.z.ca, "idevid", { commonName: "DEV-99999" }, throwawayKey().spki);
    expect(await findings(der)).toEqual([
      expect.objectContaining({ severity: "open", code: "alarm", party: "technician-z", subject: "DEV-99999" }),
    ]);
  });

  it("that its own certificate contradicts is wrong", async () => {
    const entry = world.z.log.entries.map((one) => parseEntry(one).act).find((act) => act.type === "certified");
    const logged = fromBase64((entry as Act<"certified">).fields.certificate);
    const foreign = issue(world.y.ca, "idevid", { commonName: "DEV-99998" }, throwawayKey().spki).der;
    const own = issue(world.z.ca, "idevid", { commonName: "DEV-99997" }, throwawayKey().spki).der;
    for (const [der, subject, message] of [
      [logged, undefined, /is in the ledger/],
      [foreign, undefined, /did not sign/],
      [own, sha("other"), /subject is not the certificate/],
    ] as const) {
      expect(await findings(der, subject)).toEqual([
        expect.objectContaining({ severity: "error", code: "act-invalid", message: expect.stringMatching(message) }),
      ]);
    }
  });

  it("over a certificate that is too large to be shown is open too, by the party's own word", async () => {
    const alarm = (caKey: string) =>
      raised({ what: "unlogged-certificate", evidence: { caKey, size: 40_000 } }, sha("certificate"));
    expect(await alarm(keyId(world.z.ca.key.spki))).toEqual([
      expect.objectContaining({ severity: "open", code: "alarm", message: expect.stringMatching(/40000 bytes/) }),
    ]);
    expect(await alarm(keyId(world.y.ca.key.spki))).toEqual([
      expect.objectContaining({ severity: "error", message: expect.stringMatching(/not the party's CA key/) }),
    ]);
  });

  it("over signatures that the party didn't ask for is open, and wrong when its own numbers say otherwise", async () => {
    const caKey = keyId(world.z.ca.key.spki);
    const alarm = (change: object) => {
      const evidence = { caKey, counted: 45, since: 30, accounted: 12, ...change };
      return raised({ what: "unaccounted-signatures", evidence }, evidence.caKey);
    };
    expect(await alarm({})).toEqual([
      expect.objectContaining({ severity: "open", code: "alarm", message: expect.stringMatching(/ 3 times more/) }),
    ]);
    for (const [change, message] of [
      [{ accounted: 15 }, /accounted for/],
      [{ caKey: keyId(world.y.ca.key.spki) }, /not the party's CA key/],
    ] as const) {
      expect(await alarm(change)).toEqual([
        expect.objectContaining({ severity: "error", code: "act-invalid", message: expect.stringMatching(message) }),
      ]);
    }
  });

  it("over a counter that was set back is open, and wrong when it didn't go back", async () => {
    const caKey = keyId(world.z.ca.key.spki);
    const alarm = (change: object) => {
      const evidence = { caKey, counted: 3, before: 45, seen: new Date().toISOString(), ...change };
      return raised({ what: "signature-counter-set-back", evidence }, evidence.caKey);
    };
    expect(await alarm({})).toEqual([
      expect.objectContaining({ severity: "open", code: "alarm", message: expect.stringMatching(/set back/) }),
    ]);
    for (const [change, message] of [
      [{ counted: 45 }, /didn't go back/],
      [{ caKey: keyId(world.y.ca.key.spki) }, /not the party's CA key/],
    ] as const) {
      expect(await alarm(change)).toEqual([
        expect.objectContaining({ severity: "error", code: "act-invalid", message: expect.stringMatching(message) }),
      ]);
    }
  });
});
