import { WorkflowIdReusePolicy } from "@temporalio/client";
import { z } from "zod";
import { asked, workflowIds } from "../../../contracts/parties.ts";
import { QUEUES } from "../../../contracts/queues.ts";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { findHubRegistration, requestHubRegistration } from "../../../store/authority.ts";
import { requireClient } from "../../http/client.ts";
import { parseInput } from "../../http/input.ts";
import type { HttpsServer } from "../../http/server.ts";
import type { GatewayDeps } from "../deps.ts";

const named = z.strictObject({ name: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/) });

/** Registering this site's root at the hub: `/api/v1/hub-registrations`, for operators. */
export function registerHub(app: HttpsServer, deps: GatewayDeps): void {
  const operator = { onRequest: requireClient("operator") };

  app.post("/api/v1/hub-registrations", operator, async (request, reply) => {
    const { name } = parseInput(named, request.body, "request body");
    if (!deps.hubConfigured) throw new CountersignError("usage", "this site has no hub in its configuration");
    await requestHubRegistration(deps.db, name);
    await deps.workflows.signalWithStart("hubRegistration", {
      workflowId: workflowIds.hub(name),
      taskQueue: QUEUES.site,
      args: [{ name }],
      workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE,
      signal: asked,
    });
    return reply.code(202).send(await view(name));
  });

  app.get("/api/v1/hub-registrations/:name", operator, async (request) => {
    return view(parseInput(named, request.params, "path").name);
  });

  async function view(name: string): Promise<Record<string, unknown>> {
    const row = await findHubRegistration(deps.db, name);
    if (!row) throw new CountersignError("not-found", `no registration ${name} was asked for here`);
    const error = row.errorCode === null ? {} : { error: { code: row.errorCode, message: row.errorMessage ?? "" } };
    return { name: row.name, state: row.state, caSha256: row.caSha256, ...error };
  }
}
