import { WorkflowIdReusePolicy, WorkflowNotFoundError, type WorkflowClient } from "@temporalio/client";
import { z } from "zod";
import { hubWorkflowIds, type HubChange } from "../../../contracts/hubs.ts";
import { asked } from "../../../contracts/parties.ts";
import { QUEUES } from "../../../contracts/queues.ts";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { sha256Hex } from "../../../lib/domain/hash.ts";
import { DEVICE_ID } from "../../../lib/domain/ids.ts";
import { editHub } from "../../../services/hub/change.ts";
import type { HubRegistry } from "../../../services/hub/registry.ts";
import type { HubProof } from "../../../lib/records/hub-proof.ts";
import { findCaCertificate } from "../../../store/authority.ts";
import type { Db } from "../../../store/db.ts";
import { currentGrant } from "../../../store/grants.ts";
import { listHubOffers } from "../../../store/hub-offers.ts";
import { addHubLine, listHubLineCas, type HubLineCa } from "../../../store/hub-lines.ts";
import { clientOf, requireClient } from "../../http/client.ts";
import { parseInput } from "../../http/input.ts";
import type { HttpsServer } from "../../http/server.ts";

export interface HubsDeps {
  readonly db: Db;
  readonly party: string;
  readonly workflows: WorkflowClient;
  readonly hubs: ReadonlyMap<string, HubRegistry>;
  /** the hub that sends nothing and notes what it would send; undefined where it can't say */
  readonly planned: (hub: string) => { hub: HubRegistry; requests: readonly unknown[] } | undefined;
}

const hubName = z.string().regex(/^[a-z0-9][a-z0-9-]{0,31}$/);
/** Three digits are kept for the numbers of later certificates. */
const lineName = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$/);
const caName = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/);
const groupName = z.string().regex(/^[a-z0-9][a-z0-9._-]{0,127}$/);
const deviceId = z.string().regex(DEVICE_ID);

const edit = z.discriminatedUnion("kind", [
  z.strictObject({
    kind: z.enum(["create-device", "disable-device", "enable-device", "remove-device"]),
    subject: deviceId,
  }),
  z.strictObject({ kind: z.literal("remove-ca"), subject: caName }),
  z.strictObject({ kind: z.literal("offer-ca"), subject: lineName }),
  z.strictObject({ kind: z.literal("prove-ca"), subject: lineName }),
  z.strictObject({ kind: z.literal("put-enrollment"), subject: groupName, line: lineName }),
  z.strictObject({
    kind: z.enum(["enable-enrollment", "disable-enrollment", "remove-enrollment"]),
    subject: groupName,
  }),
]);
const hubParams = z.strictObject({ hub: hubName });
const lineParams = z.strictObject({ hub: hubName, line: lineName });
const lineBody = z.strictObject({ line: lineName, dryRun: z.boolean().default(false) });
const changeBody = z.strictObject({ change: edit, dryRun: z.boolean().default(false) });
const changeParams = z.strictObject({
  hub: hubName,
  kind: z.string().regex(/^[a-z-]{1,32}$/),
  subject: z.string().min(1).max(128),
});
const deviceParams = z.strictObject({ hub: hubName, id: deviceId });
const groupParams = z.strictObject({ hub: hubName, name: groupName });

/** This site's CA at its hubs, and what operators change there: `/api/v1/hubs/...`. */
export function registerHubs(app: HttpsServer, deps: HubsDeps): void {
  const { db, workflows } = deps;
  const operator = { onRequest: requireClient("operator") };
  const common = {
    taskQueue: QUEUES.site,
    workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE,
    signal: asked,
  };

  function registry(hub: string): HubRegistry {
    const found = deps.hubs.get(hub);
    if (found) return found;
    const known = [...deps.hubs.keys()].join(", ") || "none";
    throw new CountersignError("not-found", `this site has no hub ${hub} in its configuration; it has ${known}`);
  }

  function planned(hub: string) {
    const plan = deps.planned(hub);
    if (plan) return plan;
    throw new CountersignError("usage", `a dry run names the requests to an Azure hub; ${hub} is none`);
  }

  app.get("/api/v1/hubs", operator, async () => ({
    hubs: [...deps.hubs].map(([name, { kind, cas, enrollments }]) => ({
      name,
      kind,
      places: cas.map(({ place }) => place),
      provisioning: enrollments !== undefined,
    })),
  }));

  app.post("/api/v1/hubs/:hub/lines", operator, async (request, reply) => {
    const { hub } = parseInput(hubParams, request.params, "path");
    const { line, dryRun } = parseInput(lineBody, request.body, "request body");
    const { certificate } = await currentGrant(db);
    registry(hub);
    if (dryRun) {
      const plan = planned(hub);
      for (const cas of plan.hub.cas) {
        const ca = { name: line, certificate };
        const offer = await cas.offer(ca);
        // In the place of the certificate that the CA's key signs once there is a code.
        if (offer) await cas.verify(ca, offer, certificate);
      }
      return { requests: plan.requests };
    }
    await addHubLine(db, { hub, line });
    const options = { ...common, workflowId: hubWorkflowIds.line(hub, line), args: [{ hub, line }] };
    await workflows.signalWithStart("hubLine", options);
    request.log.info({ hub, line, by: clientOf(request).commonName }, "registering the CA at a hub");
    return reply.code(202).send({ hub, line, state: "requested" });
  });

  app.get("/api/v1/hubs/:hub/lines/:line", operator, async (request) => {
    const { hub, line } = parseInput(lineParams, request.params, "path");
    const cas = await listHubLineCas(db, { hub, line });
    return { hub, line, ...(await progress(hubWorkflowIds.line(hub, line))), cas: cas.map(caView) };
  });

  /** The codes that wait for the root's token, as `ceremony prove` takes them. */
  app.get("/api/v1/hubs/:hub/offers/:line", operator, async (request): Promise<HubProof> => {
    const { hub, line } = parseInput(lineParams, request.params, "path");
    const codes = await listHubOffers(db, hub, line);
    if (codes.length === 0) throw new CountersignError("not-found", `no code of ${hub} for ${line} waits here`);
    const caSha256 = sha256Hex((await ownRoot()).certificate);
    return { schema: "countersign/hub-proof/v1", party: deps.party, hub, name: line, caSha256, codes };
  });

  app.get("/api/v1/hubs/:hub/cas", operator, async (request) => {
    const { hub } = parseInput(hubParams, request.params, "path");
    const lists = await Promise.all(registry(hub).cas.map((place) => place.list()));
    return { cas: lists.flat() };
  });

  app.get("/api/v1/hubs/:hub/devices/:id", operator, async (request) => {
    const { hub, id } = parseInput(deviceParams, request.params, "path");
    const device = await registry(hub).devices.show(id);
    if (device) return device;
    throw new CountersignError("not-found", `${hub} has no device ${id}`);
  });

  app.get("/api/v1/hubs/:hub/enrollments/:name", operator, async (request) => {
    const { hub, name } = parseInput(groupParams, request.params, "path");
    const group = await registry(hub).enrollments?.show(name);
    if (group) return group;
    throw new CountersignError("not-found", `${hub} has no enrollment group ${name}`);
  });

  app.post("/api/v1/hubs/:hub/changes", operator, async (request, reply) => {
    const { hub } = parseInput(hubParams, request.params, "path");
    const { change, dryRun } = parseInput(changeBody, request.body, "request body");
    registry(hub);
    if (dryRun) {
      const plan = planned(hub);
      if (change.kind === "offer-ca" || change.kind === "prove-ca") {
        if (change.kind === "prove-ca") throw new CountersignError("usage", "a dry run has no code to be proven");
        const { certificate } = await ownRoot();
        for (const cas of plan.hub.cas) await cas.offer({ name: change.subject, certificate });
        return { requests: plan.requests };
      }
      await editHub(plan.hub, change.kind === "put-enrollment" ? { ...change, cas: [change.line] } : change);
      return { requests: plan.requests };
    }
    const args: [{ hub: string; change: HubChange }] = [{ hub, change }];
    const workflowId = hubWorkflowIds.change(hub, change);
    await workflows.signalWithStart("hubChange", { ...common, workflowId, args });
    request.log.info({ hub, ...change, by: clientOf(request).commonName }, "changing a hub");
    return reply.code(202).send({ hub, ...change, state: "requested" });
  });

  app.get("/api/v1/hubs/:hub/changes/:kind/:subject", operator, async (request) => {
    const { hub, ...change } = parseInput(changeParams, request.params, "path");
    return progress(hubWorkflowIds.change(hub, change));
  });

  async function ownRoot(): Promise<{ certificate: Uint8Array }> {
    const ca = await findCaCertificate(db);
    if (ca?.role === "root") return ca;
    throw new CountersignError("usage", "this site has no offline root: its CA is registered by hub ca register");
  }

  /** How far a run is; while it is under way, what it was last kept up by. */
  async function progress(workflowId: string): Promise<Record<string, unknown>> {
    const handle = workflows.getHandle(workflowId);
    try {
      const { status, raw } = await handle.describe();
      if (status.name === "COMPLETED") return { ...((await handle.result()) as object) };
      if (status.name !== "RUNNING") throw new CountersignError("internal", `${workflowId} ended as ${status.name}`);
      const failure = raw.pendingActivities?.find(({ lastFailure }) => lastFailure)?.lastFailure;
      const message = failure?.message ?? undefined;
      const code = failure?.applicationFailureInfo?.type ?? "internal";
      return { state: "requested", ...(message === undefined ? {} : { error: { code, message } }) };
    } catch (error) {
      if (!(error instanceof WorkflowNotFoundError)) throw error;
      throw new CountersignError("not-found", "nothing of the kind was asked for here");
    }
  }
}

function caView({ name, caSha256, state, errorCode, errorMessage }: HubLineCa): Record<string, unknown> {
  const error = errorCode === null ? {} : { error: { code: errorCode, message: errorMessage ?? "" } };
  return { name, caSha256, state, ...error };
}
