import type { Logger } from "./logger.ts";
import { createPlainServer, type HttpServer } from "./server.ts";

/**
 * The management port: `/metrics` in Prometheus' text format and `/healthz`, without TLS or client certificate, and
 * therefore on loopback unless the configuration says otherwise.
 */
export async function startManagement(
  settings: { host: string; port: number; logger: Logger },
  metrics: () => Promise<string>,
): Promise<HttpServer> {
  const server = createPlainServer({ logger: settings.logger, bodyLimit: 1024 });
  server.get("/healthz", async () => ({ ok: true }));
  server.get("/metrics", async (_request, reply) =>
    reply.type("text/plain; version=0.0.4; charset=utf-8").send(await metrics()),
  );
  await server.listen({ host: settings.host, port: settings.port });
  return server;
}
