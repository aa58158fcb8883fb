import { type ChildProcess, fork } from "node:child_process";
import { randomInt } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { request } from "node:https";
import { join } from "node:path";
import { PROJECT_ROOT, tempDir, testDatabase } from "./index.ts";
import { CLIENT_AUTH, SERVER_AUTH, testCertificate, type TestCertificate } from "./test-pki.ts";

/** For tests: the hub as its own process, on a database of its own, with an operator who may use its API. */
export interface TestHub {
  apiPort: number;
  mqttPort: number;
  /** of the hub's process */
  pid: number;
  /** what it wrote since it was started */
  said: string;
  /** HOST:PORT for devices. */
  address: string;
  infraCa: TestCertificate;
  databaseUrl: string;
  /** A state folder as the command line expects it. */
  home: string;
  // oxlint-disable-next-line typescript/no-explicit-any -- tests look at answers field by field, that is their check
  api(method: string, path: string, body?: unknown): Promise<{ status: number; body: Record<string, any> }>;
  /** SIGKILL, then a new process on the same database. */
  crashAndRestart(): Promise<void>;
  stop(): Promise<void>;
  /** Closes the IPC channel, as when the process that started it dies; resolves with the hub's exit code. */
  orphan(): Promise<number | null>;
}

/** A loopback address of one's own, for clients whose port can't be chosen. */
export function ownLoopback(): string {
  const part = (): number => 1 + randomInt(254);
  return `127.${part()}.${part()}.${part()}`;
}

/**
 * @param settings of the MQTT side
 * @param more further parts of the configuration
 * @param databaseUrl another hub's, to be a second process of it
 * @param options.ips further addresses that the server certificate names
 */
export async function startTestHub(
  settings: Record<string, unknown> = {},
  more: Record<string, unknown> = {},
  databaseUrl?: string,
  options: { ips?: string[] } = {},
): Promise<TestHub> {
  const home = tempDir("hub");
  const dir = join(home, "hub");
  mkdirSync(dir);
  const infraCa = await testCertificate("CN=hub infrastructure", { ca: true, pathLength: 0 });
  const host = typeof more["host"] === "string" ? more["host"] : "127.0.0.1";
  const ips = [...new Set([host, "127.0.0.1", ...(options.ips ?? [])])];
  const san = [{ type: "dns", value: "localhost" } as const, ...ips.map((value) => ({ type: "ip", value }) as const)];
  const server = await testCertificate("CN=hub", { issuer: infraCa, eku: [SERVER_AUTH], san });
  const operator = await testCertificate("CN=alice, OU=operator", { issuer: infraCa, eku: [CLIENT_AUTH] });
  const url = databaseUrl ?? (await testDatabase()).url;
  const { password } = new URL(url);
  const bare = new URL(url);
  bare.password = "";
  const files = {
    "ca.pem": infraCa.pem,
    "server.pem": server.pem,
    "server.key": server.keyPem,
    "operator.pem": operator.pem,
    "operator.key": operator.keyPem,
    "db.password": `${decodeURIComponent(password)}\n`,
  };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(dir, name), text, { mode: 0o600 });

  let child: ChildProcess | undefined;
  let said = "";
  const hub = { apiPort: 0, mqttPort: 0 };
  const start = async (): Promise<void> => {
    const config = {
      schema: "countersign/hub/v1",
      api: { port: hub.apiPort },
      mqtt: { port: hub.mqttPort, ...settings },
      tls: { cert: "server.pem", key: "server.key" },
      clientCa: "ca.pem",
      database: { url: bare.href, passwordFile: "db.password" },
      log: "warn",
      ...more,
      operator: {
        url: `https://${host}:${hub.apiPort || 1}`,
        ca: "ca.pem",
        cert: "operator.pem",
        key: "operator.key",
      },
    };
    const file = join(dir, "hub.json");
    writeFileSync(file, JSON.stringify(config));
    const started = fork(join(PROJECT_ROOT, "apps/hub/main.ts"), ["--config", file], {
      execArgv: [],
      stdio: ["ignore", "pipe", "pipe", "ipc"],
    });
    child = started;
    said = "";
    started.stdout?.on("data", (part: Buffer) => (said += part.toString()));
    started.stderr?.on("data", (part: Buffer) => (said += part.toString()));
    const ready = await new Promise<{ apiPort: number; mqttPort: number }>((resolve, reject) => {
      started.once("message", (message) => resolve(message as { apiPort: number; mqttPort: number }));
      started.once("exit", (code) => reject(new Error(`the hub ended with ${code}: ${said}`)));
    });
    Object.assign(hub, { apiPort: ready.apiPort, mqttPort: ready.mqttPort });
    // Once the ports are known, the file says them, for the command line.
    config.operator.url = `https://${host}:${ready.apiPort}`;
    writeFileSync(file, JSON.stringify(config));
  };
  const end = (signal: NodeJS.Signals): Promise<number | null> =>
    new Promise((resolve) => {
      child?.once("exit", (code) => resolve(code));
      child?.kill(signal);
    });
  await start();
  return {
    get apiPort() {
      return hub.apiPort;
    },
    get mqttPort() {
      return hub.mqttPort;
    },
    get pid() {
      return child?.pid ?? 0;
    },
    get address() {
      return host === "127.0.0.1" ? `localhost:${hub.mqttPort}` : `${host}:${hub.mqttPort}`;
    },
    get said() {
      return said;
    },
    infraCa,
    databaseUrl: url,
    home,
    api(method, path, body) {
      return new Promise((resolve, reject) => {
        const text = body === undefined ? undefined : JSON.stringify(body);
        const call = request(
          {
            host,
            port: hub.apiPort,
            method,
            path,
            agent: false,
            ca: infraCa.pem,
            cert: operator.pem,
            key: operator.keyPem,
            headers: text === undefined ? {} : { "content-type": "application/json" },
          },
          (response) => {
            let answer = "";
            response.setEncoding("utf8").on("data", (part: string) => (answer += part));
            response.on("end", () =>
              resolve({ status: response.statusCode ?? 0, body: answer === "" ? {} : JSON.parse(answer) }),
            );
          },
        );
        call.on("error", reject).end(text);
      });
    },
    async crashAndRestart() {
      await end("SIGKILL");
      await start();
    },
    orphan() {
      return new Promise((resolve) => {
        child?.once("exit", (code) => resolve(code));
        child?.disconnect();
      });
    },
    async stop() {
      const code = await end("SIGTERM");
      if (code !== 0) throw new Error(`the hub ended with ${code} on SIGTERM`);
    },
  };
}

/** Registers a CA the way its owner would: code first, then both certificates. */
export async function registerTestCa(
  hub: TestHub,
  name: string,
  ca: TestCertificate,
  succeeds?: string,
): Promise<void> {
  const offered = await hub.api("POST", "/api/v1/cas", { name, ...(succeeds !== undefined && { succeeds }) });
  const verification = await testCertificate(`CN=${String(offered.body["code"])}`, { issuer: ca });
  const path = `/api/v1/cas/${name}/verify`;
  const verified = await hub.api("POST", path, { ca: ca.pem, verification: verification.pem });
  if (verified.status !== 200) throw new Error(JSON.stringify(verified.body));
}
