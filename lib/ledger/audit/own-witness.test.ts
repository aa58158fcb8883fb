import { expect, it } from "vitest";
import { cosign, withSignatures } from "../cosignature.ts";
import { opensslVerify } from "../../../test/support/memory-log.ts";
import { testWorld, type TestParty } from "../../../test/support/world.ts";
import { parseNote, parseVkey } from "../note.ts";
import { formatPolicy } from "../policy.ts";
import { auditLedgers } from "./ledgers.ts";

it("wants others' cosignatures under each checkpoint, and lets no party count for its own", async () => {
  const world = await testWorld(1);
  const { x, y, z, root } = world;
  const parties = new Map([x, y, z].map((party) => [party.id, party]));
  const witnessOf = (party: TestParty) => parseVkey(party.keyset.witness.vkey);
  const notes = new Map<string, Uint8Array>();
  for (const party of parties.values()) {
    const note = (await party.log.fetch("checkpoint"))!;
    const { text } = parseNote(note);
    const lines = await Promise.all([x, y, z].map((by) => cosign(text, witnessOf(by).name, by.witness, 1_700_000_000)));
    notes.set(party.id, withSignatures(note, lines));
  }
  const audit = async (witnesses: (party: TestParty) => readonly TestParty[], cosigned = true) => {
    const logs = Object.fromEntries(
      [...parties.values()].map((party) => [party.id, formatPolicy(party.log.key, witnesses(party).map(witnessOf))]),
    );
    const { report } = await auditLedgers({
      root,
      policy: { ...world.policy, logs },
      verify: opensslVerify,
      fetch: async (id, path) => {
        if (path.startsWith("blobs/")) return parties.get(id)!.blobs.get(path.slice(6));
        return path === "checkpoint" && cosigned ? notes.get(id) : parties.get(id)!.log.fetch(path);
      },
    });
    return {
      quorum: report.quorum,
      errors: report.findings.filter((f) => f.severity === "error").map((f) => [f.party, f.code]),
    };
  };
  const others = (party: TestParty) => [...parties.values()].filter((other) => other !== party);

  expect(await audit(others)).toEqual({ quorum: "met", errors: [] });
  expect((await audit(() => [])).quorum).toBe("none");
  expect((await audit((party) => (party === y ? [x, y] : others(party)))).errors).toEqual([
    ["factory-y", "quorum-own"],
  ]);
  const without = await audit(others, false);
  expect(without.errors).toEqual(
    expect.arrayContaining(["company-x", "factory-y", "technician-z"].map((party) => [party, "ledger-invalid"])),
  );
});
