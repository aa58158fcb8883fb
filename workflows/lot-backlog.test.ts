import { Client, Connection, type WorkflowClient, type WorkflowHandle } from "@temporalio/client";
import { DefaultLogger, NativeConnection, Runtime, Worker } from "@temporalio/worker";
import { afterAll, beforeAll, beforeEach, expect, it } from "vitest";
import { workflowBundle } from "../apps/site/workflow-bundle.ts";
import {
  batchesArrived,
  lotProgress,
  lotWorkflowIds,
  type BatchGroup,
  type BatchRefusal,
  type LotActivities,
  type LotBatch,
  type ProductionLotInput,
} from "../contracts/lots.ts";
import { QUEUES } from "../contracts/queues.ts";
import { testTemporal } from "../test/support/index.ts";

/** More batches than a run may hold, on a real server; the database is a list here. */

const stored = new Map<string, LotBatch>();
const worked: string[] = [];
const groups: BatchGroup[] = [];
let hold: Promise<void> | undefined;
let refills = 0;

async function work(group: BatchGroup): Promise<BatchRefusal[]> {
  const { batches } = group;
  await hold;
  worked.push(...batches);
  groups.push(group);
  for (const id of batches) stored.delete(id);
  return [];
}

const activities: LotActivities = {
  openLot: async () => undefined,
  refuseBatch: async () => undefined,
  recordBuilt: work,
  issueBatches: work,
  waitingBatches: async ({ limit }) => {
    refills++;
    return [...stored.values()].slice(0, limit);
  },
};

let workflows: WorkflowClient;
const closers: (() => Promise<unknown>)[] = [];

beforeAll(async () => {
  Runtime.install({ logger: new DefaultLogger("ERROR") });
  const { address, namespace } = await testTemporal();
  const native = await NativeConnection.connect({ address });
  const workflowBundled = { codePath: await workflowBundle() };
  const options = { connection: native, namespace, taskQueue: QUEUES.site, workflowBundle: workflowBundled };
  const worker = await Worker.create({ ...options, activities: { ...activities } });
  const running = worker.run();
  const connection = await Connection.connect({ address });
  workflows = new Client({ connection, namespace }).workflow;
  closers.push(
    () => connection.close(),
    () => native.close(),
    async () => {
      worker.shutdown();
      await running;
    },
  );
}, 60_000);
afterAll(async () => {
  for (const close of closers.toReversed()) await close();
});
beforeEach(() => {
  stored.clear();
  worked.length = 0;
  groups.length = 0;
  refills = 0;
});

function store(count: number, name: string): LotBatch[] {
  const kind = (i: number) => (i % 40 < 20 ? "built" : "certify");
  const batches = Array.from(
    { length: count },
    (_, i) => ({ id: `${name}-${i}`.padEnd(64, "x"), kind: kind(i) }) as const,
  );
  for (const batch of batches) stored.set(batch.id, batch);
  return batches;
}

async function startLot(lot: string, more: Partial<ProductionLotInput>): Promise<WorkflowHandle> {
  const input: ProductionLotInput = { lot, ...more };
  return await workflows.start("productionLot", {
    workflowId: lotWorkflowIds.lot(lot),
    taskQueue: QUEUES.site,
    args: [input],
  });
}

async function until(what: string, holds: () => Promise<boolean>, ms = 60_000): Promise<void> {
  for (const deadline = Date.now() + ms; !(await holds());) {
    if (Date.now() > deadline) throw new Error(`waited too long for ${what}`);
    await new Promise((wake) => setTimeout(wake, 50));
  }
}

it("hands on no more than it may hold, however many were announced", async () => {
  let release = (): void => undefined;
  hold = new Promise((resolve) => (release = resolve));
  const lot = await startLot("backlog", { lanes: 1, batchesPerRun: 8 });
  const batches = store(30_000, "b");
  for (let i = 0; i < batches.length; i += 1000) await lot.signal(batchesArrived, batches.slice(i, i + 1000));
  const { runId: first } = await lot.describe();
  expect(await lot.query(lotProgress)).toMatchObject({ queued: 2000, behind: true });
  release();
  hold = undefined;
  const latest = workflows.getHandle(lotWorkflowIds.lot("backlog"));
  await until("a later run", async () => (await latest.describe()).runId !== first);
  const { events } = await workflows.getHandle(lotWorkflowIds.lot("backlog"), first).fetchHistory();
  const handed = events?.at(-1)?.workflowExecutionContinuedAsNewEventAttributes?.input?.payloads?.[0]?.data;
  expect(handed!.length).toBeGreaterThan(100_000);
  expect(handed!.length).toBeLessThan(400_000);
  expect(await latest.query(lotProgress)).toMatchObject({ behind: true });
  await latest.terminate();
}, 90_000);

it("works on each batch once, whether it was announced in time, too many at once, or never", async () => {
  const lot = await startLot("refill", { queueLimit: 10, batchesPerRun: 40 });
  const batches = store(240, "r");
  // The last ones nobody announced: what is found with the others is worked on as well.
  for (let i = 0; i < 200; i += 50) await lot.signal(batchesArrived, batches.slice(i, i + 50));
  await until("all batches", async () => stored.size === 0);
  const latest = workflows.getHandle(lotWorkflowIds.lot("refill"));
  await until("their end", async () => (await latest.query(lotProgress)).running === 0);
  // Without what an activity of the test before, whose lot was ended under it, still worked on.
  const ours = worked.filter((id) => id.startsWith("r-"));
  expect(new Set(ours).size).toBe(240);
  expect(ours.length).toBe(240);
  expect(await latest.query(lotProgress)).toEqual({ queued: 0, behind: false, running: 0, done: 240 });
  expect(refills).toBeGreaterThan(10);
  const rest = refills;
  await new Promise((wake) => setTimeout(wake, 500));
  expect(refills, "nothing is asked for when nothing waits").toBe(rest);
  await latest.terminate();
}, 90_000);

it("gives a lane many small batches at once, and large ones in their turn beside them", async () => {
  let release = (): void => undefined;
  hold = new Promise((resolve) => (release = resolve));
  const lot = await startLot("mixed", { lanes: 1 });
  const batches = Array.from({ length: 120 }, (_, i): LotBatch => {
    const batch: LotBatch = { id: `m-${i}`, kind: i < 100 ? "certify" : "built" };
    return i % 10 === 0 || i >= 100 ? batch : { ...batch, small: true };
  });
  for (const batch of batches) stored.set(batch.id, batch);
  await lot.signal(batchesArrived, batches);
  release();
  hold = undefined;
  await until("all batches", async () => stored.size === 0);
  const ours = groups.filter((group) => group.lot === "mixed");
  const sizes = (list: readonly BatchGroup[]): number[] => list.map((group) => group.batches.length);
  expect(sizes(ours.filter(({ small }) => small === true))).toEqual([64, 26]);
  expect(sizes(ours.filter(({ small }) => small === undefined))).toEqual([8, 2, 8, 8, 4]);
  expect(new Set(ours.flatMap((group) => group.batches)).size).toBe(120);
  await lot.terminate();
}, 90_000);
