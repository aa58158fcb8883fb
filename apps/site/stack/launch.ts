import { readFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { loadSiteConfig } from "../config.ts";
import { siteThreads } from "../tokens.ts";
import { amqpPort, choosePorts, dpsAddress, hubPort } from "./addresses.ts";
import { Child, isPortTaken, waitUntilReady } from "./child.ts";
import { Component, type ComponentOptions } from "./component.ts";
import { siteFolder, writeHubConfig, writeSiteConfig, writeWitnessPolicies } from "./configs.ts";
import { HUB_OPERATOR, type ExampleParty } from "./example.ts";
import { findPkcs11Module, PROJECT_ROOT } from "./machine.ts";
import { openPostgres, type Postgres } from "./postgres.ts";
import { httpsGet } from "./probe.ts";
import type { SiteEntry, StackFile } from "./stack-file.ts";
import { startTemporal, type Temporal } from "./temporal.ts";

/** How the stack's components come up: what each stands on first. */

/** What has been started so far, so that a failure half-way leaves nothing behind. */
export class Started {
  readonly components: Component[] = [];
  /** The start is given up. */
  readonly stopped: AbortSignal;

  constructor(stopped: AbortSignal) {
    this.stopped = stopped;
  }

  async start(options: ComponentOptions): Promise<Component> {
    const component = new Component(options);
    this.components.push(component);
    await component.start();
    return component;
  }

  async stop(): Promise<void> {
    for (const kinds of [["hub", "site"], ["temporal"], ["postgres"]]) {
      await Promise.all(this.components.filter((c) => kinds.includes(c.kind)).map((component) => component.stop()));
    }
  }
}

/** @throws CountersignError `component-missing`, `component-unreachable`; what was started by then is in `started` */
export async function launch(
  home: string,
  parties: readonly ExampleParty[],
  started: Started,
  onStep: (what: string) => void,
): Promise<StackFile> {
  const pkcs11 = findPkcs11Module();
  const ports = await choosePorts(home, parties);
  const mqtt = await hubPort(ports["hub-mqtt"]!);
  const dps = await dpsAddress();
  const amqp = await amqpPort();
  const hubUrl = `https://127.0.0.1:${ports["hub-api"]}`;

  started.stopped.throwIfAborted();
  onStep("Postgres and Temporal");
  const [postgres, ...temporals] = await settled([
    startDatabase(home, ports["postgres"]!, started),
    ...parties.map(({ id }) => startQueue(home, id, ports[`temporal-${id}`]!, started)),
  ]);

  started.stopped.throwIfAborted();
  onStep("tokens, keys and databases");
  const configs = new Map<string, string>();
  for (const party of parties) {
    started.stopped.throwIfAborted();
    const { id } = party;
    const passwordFile = join(siteFolder(home, id), "secrets", "db.password");
    const database = await postgres.ensureDatabase({ name: id.replaceAll("-", "_"), passwordFile });
    const sitePorts = {
      gateway: ports[`gateway-${id}`]!,
      public: ports[`public-${id}`]!,
      management: ports[`management-${id}`]!,
    };
    const temporal = `127.0.0.1:${ports[`temporal-${id}`]}`;
    configs.set(id, writeSiteConfig(home, party, sitePorts, database, temporal, pkcs11, hubUrl));
  }
  started.stopped.throwIfAborted();
  await settled(parties.map(({ id }) => initSite(home, id, configs.get(id)!)));
  started.stopped.throwIfAborted();
  writeWitnessPolicies(home, parties, (id) => `http://127.0.0.1:${ports[`public-${id}`]}`);

  onStep("sites and hub");
  const hubDatabase = await postgres.ensureDatabase({
    name: "hub",
    passwordFile: join(siteFolder(home, "hub"), "secrets", "db.password"),
  });
  const reported = parties.map(({ id }) => ({
    id,
    gateway: ports[`gateway-${id}`]!,
    public: ports[`public-${id}`]!,
  }));
  const hubConfig = writeHubConfig(
    home,
    { api: ports["hub-api"]!, management: ports["hub-management"]!, mqtt, dps, amqp },
    hubDatabase,
    reported,
  );
  const [hub, ...sites] = await settled([
    startHub(home, hubConfig, hubUrl, started),
    ...parties.map((party, i) => startSite(home, party, configs.get(party.id)!, temporals[i]!, started)),
  ]);
  return {
    home,
    started: new Date().toISOString(),
    pid: process.pid,
    postgres: { port: postgres.port, pid: postgres.pid ?? null },
    sites,
    hub: {
      name: "hub",
      url: hubUrl,
      mqtt: `127.0.0.1:${mqtt}`,
      ca: join(siteFolder(home, HUB_OPERATOR), "infra", "ca.pem"),
      pid: hub.pid!,
    },
  };
}

async function startDatabase(home: string, port: number, started: Started): Promise<Postgres> {
  let postgres: Postgres | undefined;
  await started.start({
    name: "Postgres",
    kind: "postgres",
    start: async (onChild) => {
      postgres = await openPostgres({
        dataDir: join(home, "postgres"),
        adminPasswordFile: join(home, "secrets", "postgres.password"),
        logFile: join(home, "log", "postgres.log"),
        port,
        onChild,
      });
    },
  });
  return postgres!;
}

async function startQueue(home: string, id: string, port: number, started: Started): Promise<Temporal> {
  let temporal: Temporal | undefined;
  await started.start({
    name: `Temporal of ${id}`,
    kind: "temporal",
    start: async (onChild) => {
      temporal = await startTemporal({
        dbFile: join(siteFolder(home, id), "temporal.db"),
        namespaces: [id],
        port,
        logFile: join(home, "log", `temporal-${id}.log`),
        onChild,
      });
    },
  });
  return temporal!;
}

/** A child gets what it needs to run and nothing else: no administrator's login, no other party's secrets. */
function childEnvironment(threads: number): NodeJS.ProcessEnv {
  const env: NodeJS.ProcessEnv = { UV_THREADPOOL_SIZE: String(threads) };
  for (const name of ["PATH", "HOME", "LANG", "TZ", "TMPDIR", "NODE_ENV", "NODE_OPTIONS"]) {
    if (process.env[name] !== undefined) env[name] = process.env[name];
  }
  return env;
}

/** A batch's objects live from its arrival to its answer: in a young generation of the default size they are copied again and again. */
const NODE_FLAGS = ["--max-semi-space-size=32"];

function nodeChild(home: string, name: string, script: string, config: string, threads = 8): Promise<Child> {
  return Child.start({
    name,
    command: process.execPath,
    args: [...NODE_FLAGS, join(PROJECT_ROOT, script), "--config", config],
    logFile: join(home, "log", `${name}.log`),
    env: childEnvironment(threads),
    ipc: true,
  });
}

async function initSite(home: string, id: string, config: string): Promise<void> {
  const child = await nodeChild(home, `init-${id}`, "apps/site/init.ts", config);
  const { code } = await child.exited;
  if (code !== 0) throw new CountersignError("component-unreachable", `${id} can't be set up: ${child.logTail(3)}`);
}

async function startSite(
  home: string,
  party: ExampleParty,
  config: string,
  temporal: Temporal,
  started: Started,
): Promise<SiteEntry> {
  const threads = siteThreads(loadSiteConfig(config).hsm);
  const { gateway } = siteUrls.parse(JSON.parse(readFileSync(config, "utf8")));
  const infra = join(siteFolder(home, party.id), "infra");
  const [ca, cert, key] = ["ca.pem", "operator.pem", "operator.key"].map((name) =>
    readFileSync(join(infra, name), "utf8"),
  );
  const tls = { ca: ca!, cert: cert!, key: key! };
  const component = await started.start({
    name: party.id,
    kind: "site",
    start: async (onChild) => {
      const child = await nodeChild(home, party.id, "apps/site/main.ts", config, threads);
      const probe = async (): Promise<boolean> => (await httpsGet(`${gateway.url}/readyz`, tls)).status === 200;
      await served(child, onChild, probe, started.stopped);
    },
  });
  const info = siteInfo.parse(JSON.parse((await httpsGet(`${gateway.url}/api/v1/site`, tls)).body));
  return {
    ...{ id: party.id, name: party.name, role: party.role, parent: party.parent },
    url: gateway.url,
    publicUrl: gateway.publicUrl,
    origin: info.origin,
    vkey: info.vkey,
    witnessVkey: info.witnessVkey,
    pid: component.pid!,
    temporal: { address: temporal.address, pid: temporal.pid },
  };
}

const siteUrls = z.object({ gateway: z.object({ url: z.string(), publicUrl: z.string() }) });
const siteInfo = z.object({ origin: z.string(), vkey: z.string(), witnessVkey: z.string() });

async function startHub(home: string, config: string, url: string, started: Started): Promise<Component> {
  const ca = () => readFileSync(join(siteFolder(home, HUB_OPERATOR), "infra", "ca.pem"), "utf8");
  return await started.start({
    name: "hub",
    kind: "hub",
    start: async (onChild) => {
      const child = await nodeChild(home, "hub", "apps/hub/main.ts", config);
      const probe = async (): Promise<boolean> => (await httpsGet(`${url}/healthz`, { ca: ca() })).status === 200;
      await served(child, onChild, probe, started.stopped);
    },
  });
}

/** Waits for it; one that doesn't come up is stopped. */
async function served(
  child: Child,
  onChild: (child: Child) => void,
  probe: () => Promise<boolean>,
  stopped: AbortSignal,
): Promise<void> {
  onChild(child);
  try {
    await waitUntilReady(child, probe, 60_000, stopped);
  } catch (error) {
    await child.stop();
    throw error;
  }
}

/**
 * All of them, waited for even when one fails: what was started must be known before it is stopped. Of several failures,
 * the one that other ports help against.
 */
async function settled<T extends readonly Promise<unknown>[]>(
  work: readonly [...T],
): Promise<{ -readonly [K in keyof T]: Awaited<T[K]> }> {
  const ended = await Promise.allSettled(work);
  const taken = ended.find((one) => one.status === "rejected" && isPortTaken(one.reason));
  if (taken?.status === "rejected") throw taken.reason;
  return Promise.all(work);
}
