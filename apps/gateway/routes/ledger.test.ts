import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { storedLog, type StoredLog } from "../../../test/support/stored-log.ts";
import { auditLog } from "../../../lib/ledger/audit-log.ts";
import { openCheckpoint } from "../../../lib/ledger/checkpoint.ts";
import { httpSource } from "../../../lib/ledger/http.ts";
import { KEY_TYPE, noteKey } from "../../../lib/ledger/note.ts";
import { nodeVerify } from "../../../hsm/verify.ts";
import { putBlob } from "../../../services/ledger/serve.ts";
import { createLogger } from "../../http/logger.ts";
import { createPlainServer, type HttpServer } from "../../http/server.ts";
import { registerLedger } from "./ledger.ts";
import { registerPublic } from "./public.ts";

describe("the ledger over HTTP", () => {
  let log: StoredLog;
  let server: HttpServer;
  let base: string;
  beforeAll(async () => {
    log = await storedLog();
    await log.grow(300);
    server = createPlainServer({ logger: createLogger({ name: "test", level: "silent" }) });
    registerLedger(server, { db: log.db });
    registerPublic(server, { db: log.db });
    base = await server.listen({ host: "127.0.0.1", port: 0 });
  });
  afterAll(async () => {
    await server?.close();
    await log?.close();
  });

  it("says of every answer how long it holds", async () => {
    const blob = await putBlob(log.db, Buffer.from("a blob"));
    const forever = "public, max-age=31536000, immutable";
    const expected: Record<string, [number, string | undefined, string]> = {
      "ledger/checkpoint": [200, "text/plain; charset=utf-8", "no-cache"],
      "ledger/tile/0/000": [200, "application/octet-stream", forever],
      "ledger/tile/entries/000": [200, "application/octet-stream", forever],
      "ledger/tile/0/001.p/44": [200, "application/octet-stream", "public, max-age=60"],
      "ledger/tile/1/000.p/1": [200, "application/octet-stream", "public, max-age=60"],
      "ledger/tile/entries/001.p/44": [200, "application/octet-stream", "public, max-age=60"],
      [`ledger/blobs/${blob}`]: [200, "application/octet-stream", forever],
      "ledger/cosigned/from/0": [200, "text/plain; charset=utf-8", "no-cache"],
      // Not yet, or never: nobody may keep that.
      "ledger/tile/0/001": [404, undefined, "no-store"],
      "ledger/tile/entries/001.p/45": [404, undefined, "no-store"],
      "ledger/cosigned/newest": [404, undefined, "no-store"],
      "crl/0123456789abcdef.crl": [404, undefined, "no-store"],
      healthz: [200, undefined, "no-store"],
      nothing: [404, undefined, "no-store"],
    };
    for (const [path, [status, type, caching]] of Object.entries(expected)) {
      const response = await fetch(`${base}/${path}`);
      const told = [response.status, response.headers.get("cache-control")];
      expect(told, path).toEqual([status, caching]);
      if (type !== undefined) expect(response.headers.get("content-type"), path).toBe(type);
    }
  });

  it("is a log that anyone can audit, its checkpoint signed on two lines", async () => {
    const source = httpSource(`${base}/ledger`);
    expect(await auditLog({ fetch: source, log: log.key, verify: nodeVerify })).toMatchObject({
      ok: true,
      entries: 300,
    });
    const second = noteKey(log.key.name, KEY_TYPE.ecdsa, log.second.spki);
    const opened = await openCheckpoint((await source("checkpoint"))!, log.key, nodeVerify, [second]);
    expect(opened.signatures.map(({ key }) => key)).toEqual([log.key, second]);
  });
});
