import { chmod, mkdtemp, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { delegateToFactory } from "../../../apps/cli/scenario/chain.ts";
import { SiteClient } from "../../../apps/cli/site-client.ts";
import { PARTIES } from "../../../apps/site/stack/example.ts";
import { Stack } from "../../../apps/site/stack/stack.ts";
import { removeState } from "../../../apps/site/stack/state.ts";
import { Killer, pause, type Kill, type Target } from "./killer.ts";
import { seededRandom, type Random } from "./random.ts";
import { Visitor } from "./visitor.ts";
import { Line, readyCsrs, type Asked } from "./station.ts";

/** One lot of ready CSRs through a site whose processes are killed meanwhile. */

export interface FaultPlan {
  readonly csrs: number;
  readonly kills: number;
  readonly seed: number;
  /** stations' batches on their way at once */
  readonly lanes: number;
  /** CSRs a batch, at most */
  readonly batch: number;
}

export interface FaultRun {
  readonly stack: Stack;
  readonly home: string;
  readonly party: string;
  readonly lot: string;
  readonly asked: readonly Asked[];
  readonly kills: readonly Kill[];
  readonly visitor: Pick<Visitor, "acknowledged" | "visits" | "failures">;
  readonly batches: number;
  /** of the lot under faults alone */
  readonly seconds: number;
  /** ends that nobody's kill explains, by component */
  readonly ownEnds: Readonly<Record<string, number>>;
  close(): Promise<void>;
}

/** Builds and issues itself: one site does everything that can go wrong. */
const PARTY = "factory-y";
const LOT = "lot-faults";
const LONGEST_PAUSE_MS = 1_500;
/** devices that connect to the hub meanwhile */
const VISITORS = 40;

export async function faultRun(plan: FaultPlan): Promise<FaultRun> {
  const dir = await mkdtemp(join(tmpdir(), "countersign-faults-"));
  await chmod(dir, 0o711); // the database runs as an account of its own
  const home = join(dir, "home");
  process.env["HUB_PORT"] ??= "0";
  const ends = new Map<string, number>();
  const stack = await Stack.start({
    home,
    parties: PARTIES.flatMap((party) =>
      party.id === "company-x" ? party : party.id === PARTY ? { ...party, issuingProcesses: 2 } : [],
    ),
    restart: true,
    onFailure: (name) => ends.set(name, (ends.get(name) ?? 0) + 1),
  });
  const close = async (): Promise<void> => {
    await stack.stop();
    await removeState(dir);
  };
  try {
    const asked = readyCsrs(plan.csrs, "dev-f-", VISITORS);
    await delegateToFactory(home, { idPrefixes: ["dev-"], quota: plan.csrs });
    await openLot(home, plan.csrs);
    const random = seededRandom(plan.seed);
    const killer = new Killer(stack, PARTY, random);
    const line = await Line.open(home, PARTY, LOT);
    const since = performance.now();
    const visitor = new Visitor(stack.info.hub, seededRandom(plan.seed + 1));
    const lot = Promise.all([produce(line, asked, plan, random, killer), killAll(killer, plan, line)]);
    await Promise.all([lot.finally(() => visitor.stop()), visitor.run(asked)]);
    line.close();
    return {
      ...{ stack, home, party: PARTY, lot: LOT, asked, kills: killer.kills, visitor, batches: line.batches, close },
      seconds: Math.round((performance.now() - since) / 100) / 10,
      ownEnds: unexplained(ends, killer.kills),
    };
  } catch (error) {
    await printLogs(home);
    await close();
    throw error;
  }
}

async function openLot(home: string, slots: number): Promise<void> {
  const site = await SiteClient.open(PARTY, { home });
  try {
    const layouts = [{ format: "esp-secure-cert", template: "esp-secure-cert.bin" }];
    await site.post("/api/v1/lots", { id: LOT, slots, issuer: PARTY, profile: "ldevid", layouts });
  } finally {
    site.close();
  }
}

async function killAll(killer: Killer, plan: FaultPlan, line: Line): Promise<void> {
  for (let i = 0; i < plan.kills; i++) {
    // A kill of an idle site shows little.
    for (let waited = 0; line.inFlight === 0 && waited < 5_000; waited += 20) await pause(20);
    await killer.kill(LONGEST_PAUSE_MS, () => line.inFlight);
  }
}

/** Lanes of batches; as many are let in with each kill that there is work in flight at the next. */
async function produce(line: Line, asked: readonly Asked[], plan: FaultPlan, random: Random, killer: Killer) {
  const slices: Asked[][] = [];
  for (let at = 0; at < asked.length;) {
    const size = random.between(Math.ceil(plan.batch / 4), plan.batch);
    slices.push(asked.slice(at, (at += size)));
  }
  let next = 0;
  const done: Asked[][] = [];
  const lane = async (): Promise<void> => {
    while (next < slices.length) {
      if (next >= (slices.length * (killer.kills.length + 1)) / Math.max(plan.kills, 1)) {
        await pause(20);
        continue;
      }
      const slice = slices[next++]!;
      await line.build(slice);
      const work = [line.certify(slice)];
      // The same CSRs in another manifest, by another connection, at once; and earlier ones once more.
      if (random.chance(0.3)) work.push(line.certify(slice.toReversed(), 1));
      if (done.length > 0 && random.chance(0.2)) work.push(line.certify(random.pick(done), 1));
      await Promise.all(work);
      done.push(slice);
    }
  };
  await Promise.all(Array.from({ length: plan.lanes }, lane));
}

const COMPONENT: Readonly<Partial<Record<Target, string>>> = {
  site: PARTY,
  postgres: "Postgres",
  hub: "hub",
  temporal: `Temporal of ${PARTY}`,
};

function unexplained(ends: ReadonlyMap<string, number>, kills: readonly Kill[]): Record<string, number> {
  const left: Record<string, number> = {};
  for (const [name, count] of ends) {
    const own = count - kills.filter(({ target }) => COMPONENT[target] === name).length;
    if (own !== 0) left[name] = own;
  }
  return left;
}

/** A run that fails leaves no state behind; what its processes said last goes to the test's output. */
async function printLogs(home: string): Promise<void> {
  for (const name of [PARTY, "hub", "postgres", `temporal-${PARTY}`]) {
    const text = await readFile(join(home, "log", `${name}.log`), "utf8").catch(() => "");
    console.error(`--- ${name}.log\n${text.trimEnd().split("\n").slice(-40).join("\n")}`);
  }
}
