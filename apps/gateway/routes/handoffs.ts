import { randomBytes } from "node:crypto";
import { WorkflowNotFoundError } from "@temporalio/client";
import { z } from "zod";
import { lotWorkflowIds, receiveHandoff } from "../../../contracts/lots.ts";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { lotId, partyId } from "../../../lib/records/primitives.ts";
import { orderReceipt } from "../../../services/custody/orders.ts";
import { claimRelease } from "../../../services/custody/release.ts";
import { getHandoff, listHandoffs, type Handoff } from "../../../store/handoffs.ts";
import { requireClient } from "../../http/client.ts";
import { parseInput } from "../../http/input.ts";
import type { HttpsServer } from "../../http/server.ts";
import { startHandoff } from "../dispatcher.ts";
import { updated } from "../update.ts";
import { lotParams, type LotDeps } from "./lot-deps.ts";

const releaseBody = z.strictObject({ to: partyId });
const handoffParams = z.strictObject({ id: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,80}$/) });
const handoffQuery = z.strictObject({ lot: lotId.optional() });
const receiveBody = z.strictObject({ discrepancies: z.array(z.string().min(1).max(200)).max(100).default([]) });

/** A lot of a hundred thousand is taken in within it, and a client that waits for one waits longer. */
const RECEIPT_MS = 240_000;

/** Changes of hands, on either side: for operators. */
export function registerHandoffs(app: HttpsServer, deps: LotDeps): void {
  const { db, custody, workflows } = deps;
  const operator = { onRequest: requireClient("operator") };

  app.post("/api/v1/lots/:id/handoffs", operator, async (request, reply) => {
    const { id: lot } = parseInput(lotParams, request.params, "path");
    const { to } = parseInput(releaseBody, request.body, "request body");
    // Unique between parties too: the taker keeps it under the same id.
    const id = `${lot}.${custody.party.slice(0, 10)}.${randomBytes(4).toString("hex")}`
      .slice(-81)
      .replace(/^[._-]+/, "");
    await claimRelease(custody, { id, lot, to });
    await startHandoff(workflows, id, "out");
    request.log.info({ handoff: id, lot, to }, "releasing");
    return reply.code(202).send(view(await getHandoff(db, id)));
  });

  app.get("/api/v1/handoffs", operator, async (request) => {
    const { lot } = parseInput(handoffQuery, request.query, "query");
    return { handoffs: (await listHandoffs(db, lot)).map(view) };
  });
  app.get("/api/v1/handoffs/:id", operator, async (request) => {
    const { id } = parseInput(handoffParams, request.params, "path");
    return view(await getHandoff(db, id));
  });

  app.post("/api/v1/handoffs/:id/receive", operator, async (request) => {
    const { id } = parseInput(handoffParams, request.params, "path");
    const { discrepancies } = parseInput(receiveBody, request.body, "request body");
    const handoff = await getHandoff(db, id);
    if (handoff.direction !== "in")
      throw new CountersignError("state-conflict", `this site gave the handoff ${id} away`);
    if (handoff.state === "received") return view(handoff);
    await orderReceipt(db, id, discrepancies);
    try {
      const workflow = workflows.getHandle(lotWorkflowIds.handoff(id));
      await updated(workflows, `the receipt of ${id}`, () => workflow.executeUpdate(receiveHandoff), RECEIPT_MS);
    } catch (cause) {
      if (!(cause instanceof WorkflowNotFoundError)) throw cause;
      const { state, errorMessage } = await getHandoff(db, id);
      throw new CountersignError("state-conflict", `the handoff ${id} is ${state}: ${errorMessage ?? "try again"}`, {
        cause,
      });
    }
    request.log.info({ handoff: id }, "received");
    return view(await getHandoff(db, id));
  });
}

function view(handoff: Handoff): Record<string, unknown> {
  const { id, direction, lot, peer, state, count, discrepancies, releaseLeaf, receiptLeaf, errorCode } = handoff;
  return {
    id,
    direction,
    lot,
    peer,
    state,
    count,
    listRoot: handoff.listRoot,
    ...(discrepancies === null ? {} : { discrepancies }),
    ...(releaseLeaf === null ? {} : { release: releaseLeaf }),
    ...(receiptLeaf === null ? {} : { receipt: receiptLeaf }),
    ...(errorCode === null ? {} : { error: { code: errorCode, message: handoff.errorMessage } }),
  };
}
