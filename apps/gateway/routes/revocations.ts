import { WorkflowIdReusePolicy } from "@temporalio/client";
import { z } from "zod";
import { asked, workflowIds } from "../../../contracts/parties.ts";
import { QUEUES } from "../../../contracts/queues.ts";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { REVOCATION_REASONS } from "../../../lib/records/acts.ts";
import { deviceId, timestamp } from "../../../lib/records/primitives.ts";
import { orderRevocation, type OrderedTarget } from "../../../services/parties/revoke.ts";
import { toldOf, type HubTold } from "../../../store/hub-blocks.ts";
import { anyOpenStep, findSteps, listSteps, type Revocation } from "../../../store/revocations.ts";
import { clientOf, requireClient } from "../../http/client.ts";
import { parseInput } from "../../http/input.ts";
import type { HttpsServer } from "../../http/server.ts";
import type { GatewayDeps } from "../deps.ts";

const MAX_TARGETS = 256;
const RESCAN_MS = 10_000;
/** Party ids are a part of what device ids may be. */
const target = z.strictObject({ id: deviceId, kind: z.enum(["device", "ca"]).optional() });
const orderBody = z.strictObject({
  targets: z.array(target).min(1).max(MAX_TARGETS),
  effect: z.enum(["final", "hold", "lift"]).default("final"),
  reason: z.enum(REVOCATION_REASONS).default("unspecified"),
  /** since when it isn't to be trusted */
  invalidity: timestamp.optional(),
  dryRun: z.boolean().default(false),
});
const listQuery = z.strictObject({
  steps: z
    .string()
    .regex(/^\d{1,15}(,\d{1,15}){0,999}$/)
    .optional(),
  before: z.coerce.number().int().min(1).default(Number.MAX_SAFE_INTEGER),
  limit: z.coerce.number().int().min(1).max(1000).default(100),
});

/** Taking back what this site issued: `/api/v1/revocations`, for operators. */
export function registerRevocations(
  app: HttpsServer,
  { db, identity, workflows, onlineCa }: Pick<GatewayDeps, "db" | "identity" | "workflows" | "onlineCa">,
): void {
  const operator = { onRequest: requireClient("operator") };

  const work = (): Promise<unknown> =>
    workflows.signalWithStart("revocation", {
      workflowId: workflowIds.revocation(identity.party),
      taskQueue: QUEUES.site,
      workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE,
      signal: asked,
    });
  // An order outlives a crash between its commit and the workflow's start.
  let looking = false;
  const timer = setInterval(() => {
    if (looking) return;
    looking = true;
    void (async () => {
      if (await anyOpenStep(db)) await work();
    })()
      .catch((error: unknown) => app.log.warn({ err: error }, "revocations wait"))
      .finally(() => (looking = false));
  }, RESCAN_MS);
  app.addHook("preClose", async () => clearInterval(timer));

  app.post("/api/v1/revocations", operator, async (request, reply) => {
    const { targets, effect, reason, dryRun, ...more } = parseInput(orderBody, request.body, "request body");
    const invalidity = more.invalidity === undefined ? undefined : new Date(more.invalidity);
    if (invalidity !== undefined && invalidity > new Date()) {
      throw new CountersignError("input-invalid", "a certificate can't be invalid from a time that is yet to come");
    }
    const order = { effect, reason, invalidity, by: clientOf(request).commonName };
    const results: OrderedTarget[] = [];
    for (const one of targets) results.push(await orderRevocation(db, one, order, dryRun));
    const ordered = results.filter(({ state }) => state === "ordered").map(({ id }) => id);
    if (dryRun || ordered.length === 0) return { results };
    request.log.warn({ targets: ordered, effect, reason, by: order.by }, "revocation ordered");
    await work();
    return reply.code(202).send({ results });
  });

  app.get("/api/v1/revocations", operator, async (request) => {
    const { steps, before, limit } = parseInput(listQuery, request.query, "query");
    const rows =
      steps === undefined ? await listSteps(db, before, limit) : await findSteps(db, steps.split(",").map(Number));
    const told = await toldOf(
      db,
      rows.map(({ id }) => id),
    );
    const revocations = rows.map((row) => ({
      ...view(row),
      ...(onlineCa ? {} : { offlineCa: true }),
      hubs: (told.get(row.id) ?? []).map(hubView),
    }));
    return { revocations };
  });
}

/** A hub that follows no CRL. */
function hubView({ hub, told, errorCode, errorMessage }: HubTold): Record<string, unknown> {
  const error = errorCode === null ? {} : { error: { code: errorCode, message: errorMessage ?? "" } };
  return { hub, told: told?.toISOString() ?? null, ...error };
}

function view(row: Revocation): Record<string, unknown> {
  const { id, target: kind, subject, serial, effect, reason, requestedBy } = row;
  const time = (at: Date | null): string | null => at?.toISOString() ?? null;
  return {
    id,
    target: kind,
    subject,
    serial,
    effect,
    reason,
    invalidity: time(row.invalidity),
    requestedBy,
    requested: time(row.requested),
    act: row.actLeaf,
    time: time(row.time),
    crlNumber: row.crlNumber,
    told: time(row.told),
    ...(row.errorCode === null ? {} : { error: { code: row.errorCode, message: row.errorMessage ?? "" } }),
  };
}
