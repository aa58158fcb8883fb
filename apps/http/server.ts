import { constants } from "node:crypto";
import type { IncomingMessage, Server as PlainServer, ServerResponse } from "node:http";
import type { Server as TlsServer } from "node:https";
import type { Socket } from "node:net";
import { fastify, LogController, type FastifyInstance } from "fastify";
import type { FastifyBaseLogger } from "fastify";
import { CountersignError } from "../../lib/domain/errors.ts";
import { RAW_CONTENT_TYPES } from "./input.ts";
import type { Logger } from "./logger.ts";
import { asCountersignError, sendProblem } from "./problem.ts";

export interface ServerOptions {
  tls: {
    /** PEM private key and certificate chain of this server. */
    key: string;
    cert: string;
    /**
     * PEM of the site's infrastructure CA. When given, a client certificate is asked for (not demanded: routes differ)
     * and Node's own verification against exactly this CA decides `authorized`; see `client.ts`. The infrastructure CA
     * signs its clients directly, so there is no chain to build and no revocation to follow here.
     */
    clientCa?: string;
  };
  logger: Logger;
  /** Bytes; 1 MiB unless given. A route may set its own. */
  bodyLimit?: number;
  /** Milliseconds for a whole request to arrive; 30 s unless given. */
  requestTimeout?: number;
}

export type HttpsServer = FastifyInstance<TlsServer, IncomingMessage, ServerResponse, FastifyBaseLogger>;
export type HttpServer = FastifyInstance<PlainServer, IncomingMessage, ServerResponse, FastifyBaseLogger>;

const DEFAULT_BODY_LIMIT = 1024 * 1024;
const DEFAULT_REQUEST_TIMEOUT = 30_000;
/** What is being answered when the server closes has so long; well within a process's time to stop. */
const CLOSING_MS = 4_000;

/** What both kinds of server share: bounded sizes and times, so that a slow or endless client costs little. */
function limits(options: Pick<ServerOptions, "bodyLimit" | "requestTimeout">) {
  return {
    bodyLimit: options.bodyLimit ?? DEFAULT_BODY_LIMIT,
    requestTimeout: options.requestTimeout ?? DEFAULT_REQUEST_TIMEOUT,
    keepAliveTimeout: 65_000,
    forceCloseConnections: "idle" as const,
    logController: new LogController({ disableRequestLogging: true }),
    onProtoPoisoning: "error" as const,
    onConstructorPoisoning: "error" as const,
    routerOptions: { maxParamLength: 256 },
    exposeHeadRoutes: false,
    trustProxy: false,
  };
}

/** An HTTPS server of a site or the hub: problem documents, limits, one log line a request. `listen` is the caller's. */
export function createServer(options: ServerOptions): HttpsServer {
  const { key, cert, clientCa } = options.tls;
  const server = fastify({
    ...limits(options),
    loggerInstance: options.logger as FastifyBaseLogger,
    https: {
      key,
      cert,
      minVersion: "TLSv1.2",
      handshakeTimeout: 10_000,
      // A resumed session shows no full certificate chain; every connection proves its key again.
      secureOptions: constants.SSL_OP_NO_TICKET,
      ...(clientCa === undefined ? {} : { ca: clientCa, requestCert: true, rejectUnauthorized: false }),
    },
  }) as HttpsServer;
  // The two kinds differ in their socket only; what is fitted here doesn't look at it.
  furnish(server as unknown as HttpServer);
  return server;
}

/** A plain HTTP server for what is signed anyway (ledger tiles, CRLs). */
export function createPlainServer(options: Omit<ServerOptions, "tls">): HttpServer {
  const server = fastify({ ...limits(options), loggerInstance: options.logger as FastifyBaseLogger }) as HttpServer;
  furnish(server);
  return server;
}

function furnish(server: HttpServer): void {
  endInTime(server);
  server.addContentTypeParser(RAW_CONTENT_TYPES, { parseAs: "buffer" }, (_request, body, done) => done(null, body));
  server.setErrorHandler((error, request, reply) => {
    const typed = asCountersignError(error);
    request.problemCode = typed.code;
    if (typed.kind === "internal") request.log.error({ err: error }, "request failed");
    return sendProblem(reply, typed);
  });
  server.setNotFoundHandler((request, reply) => {
    request.problemCode = "not-found";
    const message = `there is no ${request.method} ${request.url.slice(0, 200)} here`;
    return sendProblem(reply, new CountersignError("not-found", message));
  });
  // Whatever doesn't say how long it holds is of the moment; so is every refusal, also of what will be there later.
  server.addHook("onSend", async (_request, reply) => {
    if (reply.statusCode >= 400 || !reply.hasHeader("cache-control")) reply.header("cache-control", "no-store");
  });
  server.addHook("onResponse", async (request, reply) => {
    request.log.info(
      {
        method: request.method,
        route: request.routeOptions.url ?? request.url.slice(0, 200),
        status: reply.statusCode,
        ms: Math.round(reply.elapsedTime),
        ...(request.problemCode === undefined ? {} : { code: request.problemCode }),
        ...(request.countersignClient === undefined ? {} : { client: request.countersignClient.commonName }),
      },
      "request",
    );
  });
}

/** A server waits for its connections to end, and half a request or half a handshake would keep it from closing. */
function endInTime(server: HttpServer): void {
  const open = new Set<Socket>();
  server.server.on("connection", (socket: Socket) => {
    open.add(socket);
    socket.once("close", () => open.delete(socket));
  });
  server.addHook("preClose", async () => {
    const timer = setTimeout(() => {
      for (const socket of open) socket.destroy();
    }, CLOSING_MS);
    server.server.once("close", () => clearTimeout(timer));
  });
}
