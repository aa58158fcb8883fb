import { z } from "zod";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { parseCertificate } from "../../../lib/pki/certificate.ts";
import { pemDecode } from "../../../lib/pki/pem.ts";
import { keyId } from "../../../lib/pki/spki.ts";
import type { IssuingContext } from "../../../services/issuing/context.ts";
import type { ReconcileContext } from "../../../services/reconcile/context.ts";
import { reconcile } from "../../../services/reconcile/reconcile.ts";
import { checkSeen } from "../../../services/reconcile/seen.ts";
import { ownCaCertificates } from "../../../store/reconcile.ts";
import { requireClient } from "../../http/client.ts";
import { parseInput } from "../../http/input.ts";
import type { HttpsServer } from "../../http/server.ts";

const MAX_CERTIFICATES = 256;
const seenBody = z.strictObject({ certificates: z.string().min(1).max(1_000_000) });

/**
 * Open intents, for operators: the site looks for them by itself from time to time. Certificates seen elsewhere, for
 * operators and monitors (a hub), who can do nothing else here.
 */
export function registerReconcile(app: HttpsServer, context: ReconcileContext & IssuingContext): void {
  const operator = { onRequest: requireClient("operator") };

  app.post("/api/v1/reconciliations", operator, async () => reconcile(context, { everything: true }));

  const watching = { onRequest: requireClient("operator", "monitor") };

  /** SHA-256 of the SPKIs of this site's CA keys: whose certificates are worth reporting here. */
  app.get("/api/v1/ca-keys", watching, async () => ({
    caKeys: (await ownCaCertificates(context.db)).map((der) => keyId(parseCertificate(der).spki)),
  }));

  app.post("/api/v1/seen", watching, async (request) => {
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
