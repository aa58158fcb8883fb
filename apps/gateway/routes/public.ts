import { CountersignError } from "../../../lib/domain/errors.ts";
import { currentCrl } from "../../../store/authority.ts";
import type { HttpServer, HttpsServer } from "../../http/server.ts";
import type { GatewayDeps } from "../deps.ts";

/** What is signed anyway and served without TLS: `/crl/<ca>.crl` (RFC 5280 section 4.2.1.13), `/healthz`. */
export function registerPublic(app: HttpServer, deps: Pick<GatewayDeps, "db">): void {
  app.get("/healthz", async () => ({ ok: true }));
  registerCrl(app, deps);
}

export function registerCrl(app: HttpServer | HttpsServer, deps: Pick<GatewayDeps, "db">): void {
  (app as HttpServer).get("/crl/:file", async (request, reply) => {
    const { file } = request.params as { file: string };
    const name = /^([0-9a-f]{16})\.crl$/.exec(file)?.[1];
    const crl = name === undefined ? undefined : await currentCrl(deps.db, name);
    if (!crl) throw new CountersignError("not-found", `this site serves no CRL ${file.slice(0, 80)}`);
    return reply.type("application/pkix-crl").header("cache-control", "max-age=300").send(Buffer.from(crl.der));
  });
}
