import { WorkflowIdReusePolicy } from "@temporalio/client";
import { asked, workflowIds } from "../../../contracts/parties.ts";
import { QUEUES } from "../../../contracts/queues.ts";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { sha256Hex } from "../../../lib/domain/hash.ts";
import { parseCertificate } from "../../../lib/pki/certificate.ts";
import { orderRotation } from "../../../services/parties/rotate.ts";
import { caLabel, listOnlineCas, rotatedCaLabel } from "../../../store/authority.ts";
import { findCurrentGrant } from "../../../store/grants.ts";
import { listRotations, type CaRotation } from "../../../store/rotations.ts";
import { clientOf, requireClient } from "../../http/client.ts";
import type { HttpsServer } from "../../http/server.ts";
import type { GatewayDeps } from "../deps.ts";

/** This site's CA changing its key: `/api/v1/rotations`, for operators. */
export function registerRotations(app: HttpsServer, deps: GatewayDeps): void {
  const { db, identity, workflows, onlineCa } = deps;
  const operator = { onRequest: requireClient("operator") };

  app.post("/api/v1/rotations", operator, async (request, reply) => {
    if (!onlineCa) {
      throw new CountersignError("unauthorized", "this site's CA is a root: another root is another trust anchor");
    }
    const { supersedes } = await orderRotation(db, clientOf(request).commonName);
    await workflows.signalWithStart("caRotation", {
      workflowId: workflowIds.rotation(identity.party),
      taskQueue: QUEUES.site,
      workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE,
      signal: asked,
    });
    request.log.warn({ supersedes }, "another CA key is asked for");
    return reply.code(202).send({ supersedes });
  });

  app.get("/api/v1/rotations", operator, async () => {
    // What is said of them first: one that is done has its key below.
    const rotations = (await listRotations(db)).map(view);
    const grant = await findCurrentGrant(db);
    const keys = await Promise.all(
      (await listOnlineCas(db)).map(async ({ keyId, certificate }, i, { length }) => ({
        keyId,
        label: await caLabel(db, keyId),
        present: i === length - 1,
        notAfter: parseCertificate(certificate).notAfter.toISOString(),
      })),
    );
    const next = grant && { parent: grant.parent, label: rotatedCaLabel(grant.fields.revision + 1) };
    return { keys, next: next ?? null, rotations };
  });
}

function view({ supersedes, label, state, effectiveSize, newProof, requested, errorCode, errorMessage }: CaRotation) {
  return {
    ...{ supersedes, label, state, effectiveSize },
    // What a parent whose CA is offline is to be told, by its people.
    csrSha256: newProof === null ? null : sha256Hex(newProof),
    requested: requested.toISOString(),
    ...(errorCode === null ? {} : { error: { code: errorCode, message: errorMessage ?? "" } }),
  };
}
