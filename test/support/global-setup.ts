import { randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { mkdtempSync, rmSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { TestProject } from "vitest/node";
import { openPostgres, type Postgres } from "../../apps/site/stack/postgres.ts";
import { startTemporal, type Temporal } from "../../apps/site/stack/temporal.ts";
import { dropDatabase, provisionDatabase } from "../../store/provision.ts";

declare module "vitest" {
  interface ProvidedContext {
    support: SupportContext;
  }
}

export interface SupportContext {
  /** Asks this process for a shared server, started on the first request. Holds an unguessable path. */
  readonly url: string;
  /** Every temporary folder of the run lies in here and goes with it. */
  readonly tempRoot: string;
}

/**
 * One Postgres and one Temporal for the whole run, each only if some suite asks: a run of pure unit tests starts
 * neither. Test processes ask over a loopback port; what they were given is dropped at the end of the run.
 */
export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const tempRoot = mkdtempSync(join(tmpdir(), "countersign-test-"));
  const databases: string[] = [];
  let postgres: Promise<Postgres> | undefined;
  let temporal: Promise<Temporal> | undefined;

  const answers: Record<string, () => Promise<unknown>> = {
    database: async () => {
      const { adminUrl } = await (postgres ??= openPostgres({
        dataDir: join(tempRoot, "stack", "postgres"),
        adminPasswordFile: join(tempRoot, "stack", "secrets", "postgres.password"),
        logFile: join(tempRoot, "stack", "postgres.log"),
      }));
      const name = `test_${randomBytes(6).toString("hex")}`;
      const password = randomBytes(12).toString("hex");
      databases.push(name);
      await provisionDatabase(adminUrl, { database: name, role: name, password });
      const url = new URL(adminUrl);
      url.username = name;
      url.password = password;
      url.pathname = `/${name}`;
      return { name, url: url.href, adminUrl };
    },
    temporal: async () => {
      const { address } = await (temporal ??= startTemporal({
        namespaces: ["default"],
        logFile: join(tempRoot, "stack", "temporal.log"),
      }));
      return { address };
    },
  };

  const token = randomBytes(16).toString("hex");
  const server = createServer((request, response) => {
    const [, given, what] = (request.url ?? "").split("/");
    const answer = given === token ? answers[what ?? ""] : undefined;
    Promise.resolve(answer?.())
      .then((value) => response.writeHead(value === undefined ? 404 : 200).end(JSON.stringify(value)))
      .catch((error: unknown) => response.writeHead(500).end(String(error)));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  project.provide("support", { url: `http://127.0.0.1:${port}/${token}`, tempRoot });

  return async () => {
    server.close();
    server.closeAllConnections();
    const [cluster] = await Promise.allSettled([postgres ?? Promise.resolve(undefined)]);
    if (cluster.status === "fulfilled" && cluster.value !== undefined) {
      // Our own cluster goes as a whole; on a server that DATABASE_URL names we leave nothing behind.
      if (cluster.value.child === undefined) {
        for (const name of databases) await dropDatabase(cluster.value.adminUrl, name, name);
      }
      await cluster.value.stop();
    }
    const [server2] = await Promise.allSettled([temporal ?? Promise.resolve(undefined)]);
    if (server2.status === "fulfilled") await server2.value?.stop();
    rmSync(tempRoot, { recursive: true, force: true });
  };
}
