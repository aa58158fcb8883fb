import { spawn } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Client, Connection } from "@temporalio/client";
import { expect, it } from "vitest";
import { connect, migrate } from "../../store/db.ts";
import { findPkcs11Module, tempDir, testDatabase, testTemporal } from "../../test/support/index.ts";

/** The ceremony's own process, at a site that doesn't work on it. */

async function writeConfigs(): Promise<{
  config: string;
  document: string;
  temporal: { address: string; namespace: string };
}> {
  const folder = tempDir("company-x");
  mkdirSync(join(folder, "secrets"));
  const url = new URL((await testDatabase()).url);
  const db = connect(url.href, {});
  await migrate(db);
  await db.end();
  writeFileSync(join(folder, "secrets", "db.password"), decodeURIComponent(url.password), { mode: 0o600 });
  url.password = "";
  const temporal = await testTemporal();
  const token = { uri: "pkcs11:token=x", pinFile: "secrets/x.pin" };
  const site = {
    schema: "countersign/site/v1",
    party: "company-x",
    name: "Company-X",
    role: "manufacturer",
    origin: "countersign.example/company-x",
    organization: "Company-X",
    database: { url: url.href, passwordFile: "secrets/db.password" },
    temporal,
    hsm: { module: findPkcs11Module(), tokens: { site: token } },
    gateway: {
      port: 0,
      publicPort: 0,
      url: "https://127.0.0.1:9",
      publicUrl: "http://127.0.0.1:9",
      tls: { keyFile: "infra/gateway.key", certFile: "infra/gateway.pem", clientCaFile: "infra/ca.pem" },
    },
    imagesDir: "images",
    firmwareDir: "firmware",
  };
  const ceremony = {
    schema: "countersign/ceremony/v1",
    siteConfig: "site.json",
    hsm: {
      module: findPkcs11Module(),
      softhsm2Conf: "root/softhsm2.conf",
      token: { uri: "pkcs11:token=company-x-root", pinFile: "secrets/root.pin" },
    },
  };
  const document = {
    schema: "countersign/ceremony/v1",
    party: "company-x",
    root: { commonName: "Root", organization: "Company-X", key: "ec-p256", notAfter: "9999-12-31T23:59:59.000Z" },
    crl: { months: 12 },
    delegations: [],
  };
  writeFileSync(join(folder, "site.json"), JSON.stringify(site));
  writeFileSync(join(folder, "ceremony.json"), JSON.stringify(ceremony));
  writeFileSync(join(folder, "document.yaml"), JSON.stringify(document));
  return { config: join(folder, "ceremony.json"), document: join(folder, "document.yaml"), temporal };
}

it("closes the root's token in order when it is told to stop", async () => {
  const { config, document, temporal } = await writeConfigs();
  const program = join(import.meta.dirname, "ceremony.ts");
  const child = spawn(process.execPath, [program, "--config", config, "--document", document], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  let [out, log] = ["", ""];
  const closed = new Promise<number | null>((done) => child.once("close", done));
  child.stdout.setEncoding("utf8").on("data", (part: string) => (out += part));
  const held = new Promise<void>((done) =>
    child.stderr.setEncoding("utf8").on("data", (part: string) => {
      log += part;
      if (log.includes("the ceremony is held")) done();
    }),
  );
  try {
    await Promise.race([held, closed]);
    expect(log).not.toContain("the root token is closed");
    child.kill("SIGTERM");
    expect(await closed, log).toBe(3);
  } finally {
    child.kill("SIGKILL");
  }
  expect(log).toContain("the root token is closed");
  expect(JSON.parse(out.trim().split("\n").at(-1)!)).toMatchObject({ error: { code: "interrupted" } });

  const connection = await Connection.connect({ address: temporal.address });
  const client = new Client({ connection, namespace: temporal.namespace });
  await client.workflow
    .getHandle("ceremony/company-x")
    .terminate()
    .catch(() => undefined);
  await connection.close();
}, 60_000);
