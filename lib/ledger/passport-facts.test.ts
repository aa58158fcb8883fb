import { beforeAll, describe, expect, it } from "vitest";
import { canonicalJson } from "../domain/json.ts";
import { enlarge, witnessedPolicy } from "../../test/support/large-passport.ts";
import { opensslVerify } from "../../test/support/memory-log.ts";
import { sourceOf, testWorld, type TestWorld } from "../../test/support/world.ts";
import type { Policy } from "../records/policy.ts";
import { gatherEvidence } from "./passport-build.ts";
import type { PassportEvidence } from "./passport-evidence.ts";
import { factsOfPassport } from "./passport-facts.ts";
import { packPassport } from "./passport-pack.ts";
import { verifyPassport } from "./passport.ts";

describe("what a passport says for groups", () => {
  let world: TestWorld;
  let evidence: PassportEvidence;
  beforeAll(async () => {
    world = await testWorld(2);
    evidence = await gatherEvidence("DEV-00001", await sourceOf(world));
  });

  async function factsOf(one: PassportEvidence, policy: Policy) {
    const bytes = canonicalJson(packPassport(one, world.root.der));
    const verdict = await verifyPassport(bytes, world.root, policy, opensslVerify);
    if (!verdict.ok) throw new Error(verdict.message);
    return { facts: factsOfPassport(bytes, world.root, verdict), verdict };
  }

  it("is who did what to it, and when by their own clocks", async () => {
    const { facts, verdict } = await factsOf(evidence, world.policy);
    expect(facts).toMatchObject({
      ...{ device: "DEV-00001", lot: "LOT-1", builder: "factory-y", issuer: "technician-z", profile: "idevid" },
      ...{ installer: "technician-z", under: ["technician-z", "factory-y", "company-x"] },
    });
    for (const type of ["built", "certified", "injected", "installed"] as const) {
      expect(facts[type]).toBe(Date.parse(verdict.history.find((act) => act.type === type)!.time));
    }
  });

  it("is no later than witnesses had seen it, whatever a party's clock said", async () => {
    // These witnesses' clocks stand two months before the parties'.
    const large = await enlarge(evidence, world, 1_000);
    const { facts, verdict } = await factsOf(large, witnessedPolicy(world));
    for (const [type, party] of [
      ["built", "factory-y"],
      ["installed", "technician-z"],
    ] as const) {
      const { before } = verdict.ledgers.find((ledger) => ledger.party === party)!;
      expect(Date.parse(before!)).toBeLessThan(Date.parse(verdict.history.find((act) => act.type === type)!.time));
      expect(facts[type]).toBe(Date.parse(before!));
    }
  });
});
