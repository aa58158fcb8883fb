import { CountersignError } from "../../../lib/domain/errors.ts";
import { ENVELOPE_MEDIA_TYPE, MAX_BODY_BYTES, MAX_ENVELOPE_BYTES } from "../../../services/parties/envelope.ts";
import type { HttpsServer } from "../../http/server.ts";
import type { GatewayDeps } from "../deps.ts";

/** Bodies held in memory at once: anyone may post here, and a body may be large. */
const MAX_AT_ONCE = 4;

/** `POST /inbox`: no client certificate, the envelope authenticates itself. 200: stored for good. */
export function registerInbox(app: HttpsServer, deps: GatewayDeps): void {
  app.addContentTypeParser(ENVELOPE_MEDIA_TYPE, { parseAs: "buffer" }, (_request, body, done) => done(null, body));
  let busy = 0;

  app.post(
    "/inbox",
    {
      bodyLimit: MAX_BODY_BYTES + MAX_ENVELOPE_BYTES + 1,
      onRequest: async (_request, reply) => {
        if (busy >= MAX_AT_ONCE) throw new CountersignError("timeout", "the inbox is busy; send it again");
        busy++;
        // Fires once a request, also when the client goes away while it still sends.
        reply.raw.once("close", () => busy--);
      },
    },
    async (request) => {
      if (!(request.body instanceof Uint8Array)) {
        throw new CountersignError("envelope-invalid", `send an envelope as ${ENVELOPE_MEDIA_TYPE}`);
      }
      return deps.inbox.receive(request.body);
    },
  );
}
