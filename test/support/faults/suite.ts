import { randomInt } from "node:crypto";
import { expect } from "vitest";
import { checkRun } from "./check.ts";
import { faultRun, type FaultPlan } from "./run.ts";

/** Runs a plan, prints its counts, and asserts everything that must hold afterwards. COUNTERSIGN_SEED repeats a run. */
export async function expectOneCertificateEach(plan: Omit<FaultPlan, "seed">): Promise<void> {
  const seed = Number(process.env["COUNTERSIGN_SEED"] ?? randomInt(2 ** 31));
  console.log(`fault run: seed ${seed}, ${plan.csrs} CSRs, ${plan.kills} kills`);
  const run = await faultRun({ ...plan, seed });
  try {
    const { faults, ...counts } = await checkRun(run);
    const kills = Object.groupBy(run.kills, ({ target }) => target);
    console.log(
      JSON.stringify({
        seed,
        seconds: run.seconds,
        kills: Object.fromEntries(Object.entries(kills).map(([target, some]) => [target, some.length])),
        killsWithWorkInFlight: run.kills.filter(({ inFlight }) => inFlight > 0).length,
        longestDownMs: Math.max(...run.kills.map(({ downMs }) => downMs)),
        batches: run.batches,
        ownEnds: run.ownEnds,
        ...counts,
      }),
    );
    expect(faults).toEqual([]);
    expect(run.kills).toHaveLength(plan.kills);
    expect(counts.visits).toBeGreaterThan(0);
    expect(counts).toMatchObject({ certificates: plan.csrs, duplicates: 0, openIntents: 0, audited: plan.csrs });
  } finally {
    await run.close();
  }
}
