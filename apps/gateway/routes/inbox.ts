import { CountersignError } from "../../../lib/domain/errors.ts";
import { ENVELOPE_MEDIA_TYPE, MAX_ENVELOPE_BYTES } from "../../../services/parties/envelope.ts";
import type { OpenedEnvelope } from "../../../services/parties/inbox.ts";
import { RequestBody } from "../../http/request-body.ts";
import type { HttpsServer } from "../../http/server.ts";
import type { GatewayDeps } from "../deps.ts";

/** Bodies held in memory at once. Strangers share theirs; each known party, whose body may be large, has its own. */
const STRANGERS_AT_ONCE = 4;
const A_PEER_AT_ONCE = 2;
/** An envelope's line is small, and so is a join. */
const LINE_MS = 5_000;
const STRANGER_MS = 10_000;
/** As long as a whole request may take. */
const PEER_MS = 30_000;

/**
 * `POST /inbox`: no client certificate, the envelope authenticates itself. 200: stored for good. Its first line says
 * whose it is, and is checked before a byte of the body is waited for: what strangers send slowly, or at once, keeps no
 * known party from being served.
 */
export function registerInbox(app: HttpsServer, deps: Pick<GatewayDeps, "inbox">): void {
  const busy = new Map<string, number>();

  async function inSlot<T>({ peer }: OpenedEnvelope, work: () => Promise<T>): Promise<T> {
    // No party's id is empty.
    const slot = peer ?? "";
    const taken = busy.get(slot) ?? 0;
    if (taken >= (peer === undefined ? STRANGERS_AT_ONCE : A_PEER_AT_ONCE)) {
      throw new CountersignError("timeout", "the inbox is busy; send it again");
    }
    busy.set(slot, taken + 1);
    try {
      return await work();
    } finally {
      const left = busy.get(slot)! - 1;
      if (left === 0) busy.delete(slot);
      else busy.set(slot, left);
    }
  }

  void app.register(async (scope) => {
    // Only here: the handler reads the request itself.
    scope.removeAllContentTypeParsers();
    scope.addContentTypeParser("*", (_request, _body, done) => done(null));

    scope.post("/inbox", async (request) => {
      const body = new RequestBody(request.raw);
      try {
        if (request.headers["content-type"]?.split(";")[0] !== ENVELOPE_MEDIA_TYPE) {
          throw new CountersignError("envelope-invalid", `send an envelope as ${ENVELOPE_MEDIA_TYPE}`);
        }
        const opened = await deps.inbox.open(await body.line(MAX_ENVELOPE_BYTES, LINE_MS));
        return await inSlot(opened, async () => {
          const timeout = opened.peer === undefined ? STRANGER_MS : PEER_MS;
          return opened.take(await body.rest(opened.size, timeout));
        });
      } finally {
        body.discard();
      }
    });
  });
}
