import type { IncomingMessage, ServerResponse } from "node:http";
import { Agent, createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { SERVER_AUTH, testCertificate, type TestCertificate } from "../test/support/test-pki.ts";
import { exchange, type ExchangeRoute, problemOf, refusalOf } from "./exchange.ts";

let server: Server;
let ca: TestCertificate;
let connections = 0;
let answer: (request: IncomingMessage, response: ServerResponse) => void = (_request, response) => response.end();

beforeAll(async () => {
  ca = await testCertificate("CN=infrastructure", { ca: true });
  const san = [{ type: "ip", value: "127.0.0.1" } as const];
  const { pem: cert, keyPem: key } = await testCertificate("CN=server", { issuer: ca, eku: [SERVER_AUTH], san });
  server = createServer({ cert, key }, (request, response) => answer(request, response));
  server.on("secureConnection", () => connections++);
  await new Promise<void>((up) => server.listen(0, "127.0.0.1", up));
});
afterAll(() => server?.close());

const ask = (more: object = {}, route: ExchangeRoute = { tls: { ca: ca.pem } }) => {
  const url = new URL(`https://127.0.0.1:${(server.address() as AddressInfo).port}/x?y=1`);
  return exchange({ url, method: "GET", timeoutMs: 2_000, maxAnswerBytes: 100, ...route, ...more });
};

describe("one HTTPS exchange", () => {
  it("carries method, headers and body, and brings status, headers and body back", async () => {
    answer = (request, response) => {
      let text = "";
      request.on("data", (part: Buffer) => (text += part.toString()));
      request.on("end", () => {
        const { "if-match": match, "content-type": type } = request.headers;
        response.writeHead(429, { "Retry-After": "7" }).end([request.method, request.url, match, type, text].join(" "));
      });
    };
    const body = { bytes: "é", type: "text/plain" };
    const { status, headers, body: said } = await ask({ method: "PUT", headers: { "if-match": '"1"' }, body });
    expect([status, headers["retry-after"]]).toEqual([429, "7"]);
    expect(Buffer.from(said).toString()).toBe('PUT /x?y=1 "1" text/plain é');
  });

  it("keeps an agent's connections, and no others", async () => {
    answer = (_request, response) => response.end("ok");
    const before = connections;
    const agent = new Agent({ ca: ca.pem, keepAlive: true });
    for (let i = 0; i < 3; i++) await ask({}, { agent });
    agent.destroy();
    expect(connections - before).toBe(1);
    for (let i = 0; i < 2; i++) await ask();
    expect(connections - before).toBe(3);
  });

  it("trusts the one CA, follows no redirect, and waits neither for ever nor for more than its bound", async () => {
    const other = await testCertificate("CN=infrastructure", { ca: true });
    await expect(ask({}, { tls: { ca: other.pem } })).rejects.toThrow();
    answer = (_request, response) => response.writeHead(302, { location: "https://127.0.0.1:1/" }).end();
    expect((await ask()).status).toBe(302);
    answer = (_request, response) => response.end("a".repeat(101));
    await expect(ask()).rejects.toThrow("its answer is too long");
    answer = (_request, response) => void response.write("a");
    await expect(ask({ timeoutMs: 100 })).rejects.toThrow("no answer in time");
    await expect(ask({ signal: AbortSignal.timeout(50) })).rejects.toThrow();
    answer = (_request, response) => response.destroy();
    await expect(ask()).rejects.toThrow();
  });
});

describe("a peer's problem document", () => {
  const of = (status: number, body: unknown) => ({ status, headers: {}, body: Buffer.from(JSON.stringify(body)) });
  const document = { code: "not-found", detail: "no such thing", details: { index: 1 } };

  it("is its no, by its code; a server's fault is none", () => {
    expect(refusalOf(of(404, document))).toMatchObject({ code: "not-found", details: { index: 1 } });
    expect(refusalOf(of(503, document))).toBeUndefined();
    expect(problemOf(of(503, document))).toMatchObject({ code: "not-found" });
  });

  it.each([[{ ...document, code: "constructor" }], [{ code: "not-found" }], ["text"], [null]])("is not %j", (body) => {
    expect(refusalOf(of(404, body))).toBeUndefined();
  });
});
