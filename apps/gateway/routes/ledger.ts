import { CountersignError } from "../../../lib/domain/errors.ts";
import { readLedgerResource } from "../../../services/ledger/serve.ts";
import type { HttpServer, HttpsServer } from "../../http/server.ts";
import type { GatewayDeps } from "../deps.ts";

/** The log as static tlog-tiles, and the blobs beside it: on the public port and over HTTPS. */
export function registerLedger(app: HttpServer | HttpsServer, deps: Pick<GatewayDeps, "db">): void {
  (app as HttpServer).get("/ledger/*", async (request, reply) => {
    const path = (request.params as { "*": string })["*"];
    const resource = await readLedgerResource(deps.db, path);
    if (!resource) throw new CountersignError("not-found", `this ledger has no ${path.slice(0, 200)}`);
    return reply
      .type(resource.contentType)
      .header("cache-control", resource.cacheControl)
      .header("access-control-allow-origin", "*")
      .send(Buffer.from(resource.bytes));
  });
}
