import { z } from "zod";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { pemDecode } from "../../../lib/pki/pem.ts";
import type { IssuingContext } from "../../../services/issuing/context.ts";
import type { ReconcileContext } from "../../../services/reconcile/context.ts";
import { reconcile } from "../../../services/reconcile/reconcile.ts";
import { checkSeen } from "../../../services/reconcile/seen.ts";
import { requireClient } from "../../http/client.ts";
import { parseInput } from "../../http/input.ts";
import type { HttpsServer } from "../../http/server.ts";

const MAX_CERTIFICATES = 256;
const seenBody = z.strictObject({ certificates: z.string().min(1).max(1_000_000) });

/** Open intents and certificates out of place, for operators; the site does the first by itself from time to time. */
export function registerReconcile(app: HttpsServer, context: ReconcileContext & IssuingContext): void {
  const operator = { preHandler: requireClient("operator") };

  app.post("/api/v1/reconciliations", operator, async () => await reconcile(context));

  app.post("/api/v1/seen", operator, async (request) => {
    const { certificates } = parseInput(seenBody, request.body, "request body");
    const ders = pemDecode(certificates, "CERTIFICATE");
    if (ders.length < 1 || ders.length > MAX_CERTIFICATES) {
      throw new CountersignError("input-invalid", `1 to ${MAX_CERTIFICATES} certificates, PEM: ${ders.length} came`);
    }
    const results = await checkSeen(context, ders);
    for (const { sha256, alarm } of results) {
      if (alarm !== undefined)
        request.log.error({ certificate: sha256, act: alarm.leafHash }, "alarm: unlogged certificate");
    }
    return { results };
  });
}
