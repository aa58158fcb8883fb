import { randomBytes } from "node:crypto";
import { WithStartWorkflowOperation, WorkflowIdReusePolicy } from "@temporalio/client";
import { z } from "zod";
import { lotOpened, lotWorkflowIds } from "../../../contracts/lots.ts";
import { QUEUES } from "../../../contracts/queues.ts";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { BatchWatch } from "../../../services/intake/wait.ts";
import type { CustodyContext } from "../../../services/custody/context.ts";
import type { UnderWay } from "../../../services/issuing/under-way.ts";
import { startInjection } from "../../../services/custody/inject.ts";
import { openOwnLot } from "../../../services/custody/lots.ts";
import { orderLot } from "../../../services/custody/orders.ts";
import { lotRequest } from "../../../services/custody/terms.ts";
import { latestRun } from "../../../store/injections.ts";
import { countLot, findLot, getLot, listLots, type Lot } from "../../../store/lots.ts";
import { requireClient } from "../../http/client.ts";
import { parseInput } from "../../http/input.ts";
import type { HttpsServer } from "../../http/server.ts";
import type { GatewayDeps } from "../deps.ts";
import { Dispatcher, startInjectionRun } from "../dispatcher.ts";
import { updated } from "../update.ts";
import { registerAttestations } from "./attestations.ts";
import { registerBatches } from "./batches.ts";
import { registerDevices } from "./devices.ts";
import { registerOpenings } from "./openings.ts";
import { registerHandoffs } from "./handoffs.ts";
import { lotParams, type LotDeps } from "./lot-deps.ts";

/** Less than a client waits for an answer. */
const OPENING_MS = 50_000;
const injectionBody = z.strictObject({ limit: z.int().min(0).max(100_000_000).optional() });

/** Everything about lots, batches, handoffs and devices, under /api/v1. */
export function registerLots(
  app: HttpsServer,
  deps: Pick<GatewayDeps, "db" | "identity" | "workflows"> & {
    custody: CustodyContext;
    underWay?: UnderWay;
    /** a lot's batches that may wait */
    waitingBatches?: number;
  },
): void {
  const { db, workflows, custody } = deps;
  const dispatcher = new Dispatcher({
    db,
    workflows,
    underWay: deps.underWay,
    onFault: (error) => app.log.warn({ err: error }, "batches wait to be announced"),
  });
  const watch = new BatchWatch(db);
  app.addHook("preClose", async () => {
    dispatcher.close();
    watch.close();
  });
  const shared: LotDeps = { ...deps, dispatcher, watch };
  registerBatches(app, shared);
  registerAttestations(app, shared);
  registerHandoffs(app, shared);
  registerDevices(app, shared);
  registerOpenings(app, shared);

  const operator = { onRequest: requireClient("operator") };
  const anyone = { onRequest: requireClient("operator", "station", "technician") };

  app.post("/api/v1/lots", operator, async (request, reply) => {
    const asked = parseInput(lotRequest, request.body, "request body");
    if ((await findLot(db, asked.id)) === undefined) {
      await orderLot(db, asked);
      const start = new WithStartWorkflowOperation("productionLot", {
        workflowId: lotWorkflowIds.lot(asked.id),
        taskQueue: QUEUES.site,
        workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE,
        workflowIdConflictPolicy: "USE_EXISTING",
        args: [{ lot: asked.id, request: asked }],
      });
      const update = () => workflows.executeUpdateWithStart(lotOpened, { startWorkflowOperation: start });
      await updated(workflows, `opening the lot ${asked.id}`, update, OPENING_MS);
    }
    // Open by now, by this request or another: with the same terms, or this one is refused.
    const lot = await openOwnLot(custody, asked);
    request.log.info({ lot: lot.id }, "lot open");
    return reply.code(201).send(await view(lot));
  });

  app.get("/api/v1/lots", anyone, async () => ({ lots: (await listLots(db)).map(summary) }));
  app.get("/api/v1/lots/:id", anyone, async (request) => {
    const { id } = parseInput(lotParams, request.params, "path");
    return await view(await getLot(db, id));
  });

  app.post("/api/v1/lots/:id/injections", operator, async (request, reply) => {
    const { id: lot } = parseInput(lotParams, request.params, "path");
    const { limit } = parseInput(injectionBody, request.body ?? {}, "request body");
    const id = `${lot}.${randomBytes(4).toString("hex")}`.slice(-80);
    await startInjection(custody, { id, lot, limit });
    await startInjectionRun(workflows, id);
    return reply.code(202).send({ id });
  });
  app.get("/api/v1/lots/:id/injections", anyone, async (request) => {
    const { id } = parseInput(lotParams, request.params, "path");
    const run = await latestRun(db, id);
    if (run === undefined) throw new CountersignError("not-found", `nothing of lot ${id} is being injected here`);
    return { id: run.id, state: run.state, limit: run.limit, done: run.done, failed: run.failed };
  });

  async function view(lot: Lot): Promise<Record<string, unknown>> {
    return { ...summary(lot), layouts: lot.layouts, act: lot.ref, counts: await countLot(db, lot.id) };
  }
}

const summary = ({ id, state, builder, issuer, slots, profile, certificate }: Lot) => ({
  id,
  state,
  builder,
  issuer,
  slots,
  profile: profile.name,
  certificate,
});
