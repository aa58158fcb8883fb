import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { request as httpsRequest } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { z } from "zod";
import { CountersignError } from "../../lib/domain/errors.ts";
import { clientOf, requireClient } from "./client.ts";
import { parseInput, rawBody } from "./input.ts";
import { createLogger } from "./logger.ts";
import { createServer, type HttpsServer } from "./server.ts";

const dir = mkdtempSync(join(tmpdir(), "countersign-http-"));
let server: HttpsServer;
let port: number;

function openssl(...args: string[]): void {
  execFileSync("openssl", args, { cwd: dir, stdio: "pipe" });
}

function makeCa(name: string): void {
  openssl(
    ..."req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2".split(" "),
    "-keyout",
    `${name}.key`,
    "-out",
    `${name}.pem`,
    "-subj",
    `/CN=${name}`,
  );
}

function issue(name: string, ca: string, subject: string, usage: string): void {
  openssl(
    ..."req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc".split(" "),
    "-keyout",
    `${name}.key`,
    "-out",
    `${name}.csr`,
    "-subj",
    subject,
  );
  writeFileSync(join(dir, "ext"), `extendedKeyUsage=${usage}\nsubjectAltName=IP:127.0.0.1\n`);
  openssl(
    "x509",
    "-req",
    "-in",
    `${name}.csr`,
    "-CA",
    `${ca}.pem`,
    "-CAkey",
    `${ca}.key`,
    "-days",
    "1",
    "-extfile",
    "ext",
    "-out",
    `${name}.pem`,
  );
}

const file = (name: string): string => readFileSync(join(dir, name), "utf8");

interface Answer {
  status: number;
  type: string;
  caching: string;
  again: string | undefined;
  body: Record<string, unknown>;
}

function call(method: string, path: string, options: { client?: string; body?: string; type?: string } = {}) {
  const { client, body, type } = options;
  return new Promise<Answer>((resolve, reject) => {
    const credentials = client === undefined ? {} : { key: file(`${client}.key`), cert: file(`${client}.pem`) };
    const headers = body === undefined ? {} : { "content-type": type ?? "application/json" };
    const call = httpsRequest(
      { host: "127.0.0.1", port, method, path, headers, agent: false, ca: file("infra.pem"), ...credentials },
      (response) => {
        let text = "";
        response.setEncoding("utf8").on("data", (part: string) => (text += part));
        response.on("end", () =>
          resolve({
            status: response.statusCode ?? 0,
            type: response.headers["content-type"] ?? "",
            caching: response.headers["cache-control"] ?? "",
            again: response.headers["retry-after"],
            body: JSON.parse(text) as Record<string, unknown>,
          }),
        );
      },
    );
    call.on("error", reject).end(body);
  });
}

beforeAll(async () => {
  makeCa("infra");
  makeCa("other");
  issue("server", "infra", "/CN=localhost", "serverAuth");
  issue("alice", "infra", "/CN=alice/OU=operator", "clientAuth");
  issue("st1", "infra", "/CN=st1/OU=station", "clientAuth");
  issue("mallory", "other", "/CN=mallory/OU=operator", "clientAuth");
  issue("asserver", "infra", "/CN=asserver/OU=operator", "serverAuth");
  server = createServer({
    tls: { key: file("server.key"), cert: file("server.pem"), clientCa: file("infra.pem") },
    logger: createLogger({ name: "test", level: "silent" }),
    bodyLimit: 1000,
  });
  server.get("/open", async () => ({ ok: true }));
  server.get("/operator", { preHandler: requireClient("operator") }, async (request) => ({
    who: clientOf(request).commonName,
    spkiId: clientOf(request).spkiId,
  }));
  server.post("/typed", async (request) => parseInput(z.strictObject({ n: z.int() }), request.body, "request body"));
  server.post("/raw", async (request) => ({ length: rawBody(request).length }));
  server.get("/refused", async () => {
    throw new CountersignError("quota-exceeded", "the quota is used up", { details: { quota: 3 } });
  });
  server.get("/full", async () => {
    throw new CountersignError("queue-full", "come again", { details: { retryAfterSeconds: 4.2 } });
  });
  server.get("/broken", async () => {
    throw new Error("a secret of ours");
  });
  await server.listen({ host: "127.0.0.1", port: 0 });
  port = (server.server.address() as { port: number }).port;
});

afterAll(async () => {
  await server?.close();
  rmSync(dir, { recursive: true, force: true });
});

describe("client certificates", () => {
  it("serves open routes without one", async () => {
    expect(await call("GET", "/open")).toMatchObject({ status: 200, caching: "no-store", body: { ok: true } });
  });

  it("names the client of the infrastructure CA", async () => {
    const answer = await call("GET", "/operator", { client: "alice" });
    expect(answer).toMatchObject({ status: 200, body: { who: "alice" } });
    expect(answer.body["spkiId"]).toMatch(/^[0-9a-f]{64}$/);
  });

  it.each([
    ["no certificate", undefined, /none was sent/],
    ["another CA's", "mallory", /infrastructure CA/],
    ["a server's", "asserver", /infrastructure CA/],
    ["another role's", "st1", /for operator/],
  ])("refuses %s", async (_what, client, why) => {
    const answer = await call("GET", "/operator", client === undefined ? {} : { client });
    expect(answer).toMatchObject({ status: 401, body: { code: "unauthorized" } });
    expect(answer.body["detail"]).toMatch(why);
  });
});

describe("problem documents", () => {
  it("map code, status and details", async () => {
    const answer = await call("GET", "/refused");
    expect(answer.type).toMatch(/^application\/problem\+json/);
    expect(answer).toMatchObject({ status: 403, body: { code: "quota-exceeded", status: 403, details: { quota: 3 } } });
  });

  it("say when to come again", async () => {
    expect(await call("GET", "/full")).toMatchObject({ status: 429, again: "5", body: { code: "queue-full" } });
    expect((await call("GET", "/refused")).again).toBeUndefined();
  });

  it("keep an internal error's words inside", async () => {
    const answer = await call("GET", "/broken");
    expect(answer).toMatchObject({ status: 500, body: { code: "internal" } });
    expect(JSON.stringify(answer.body)).not.toContain("secret");
  });

  it("answer for unknown routes", async () => {
    expect(await call("GET", "/nowhere")).toMatchObject({ status: 404, body: { code: "not-found" } });
  });

  it.each([
    ["an unknown field", '{"n":1,"m":2}', "application/json", 400, "input-invalid"],
    ["text that isn't JSON", "{", "application/json", 400, "input-invalid"],
    ["a prototype's name", '{"__proto__":{"n":1}}', "application/json", 400, "input-invalid"],
    ["too much", JSON.stringify({ n: "x".repeat(2000) }), "application/json", 413, "input-too-large"],
    ["an unknown type", "n=1", "application/x-www-form-urlencoded", 400, "input-invalid"],
  ])("refuse %s", async (_what, body, type, status, code) => {
    expect(await call("POST", "/typed", { body, type })).toMatchObject({ status, body: { code } });
  });

  it("hand over raw bodies as bytes, and only those", async () => {
    const body = '{"csr":"a"}\n{"csr":"b"}\n';
    expect((await call("POST", "/raw", { body, type: "application/x-ndjson" })).body["length"]).toBe(body.length);
    expect(await call("POST", "/raw", { body: "{}" })).toMatchObject({ status: 400, body: { code: "input-invalid" } });
  });
});
