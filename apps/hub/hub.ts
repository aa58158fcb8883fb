import { readFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import { CountersignError } from "../../lib/domain/errors.ts";
import { connect, type Db } from "../../store/db.ts";
import { migrateHub } from "../../store/hub.ts";
import { keepPruned } from "../../services/retention/prune.ts";
import { hubPrunings } from "../../services/retention/hub.ts";
import { createLogger, type Logger } from "../http/logger.ts";
import { startManagement } from "../http/management.ts";
import { registerReadiness } from "../http/readiness.ts";
import { createServer } from "../http/server.ts";
import { Admission } from "./admission.ts";
import type { AmqpListener, AmqpOptions } from "./amqp.ts";
import { managementApi } from "./api.ts";
import type { HubConfig } from "./config.ts";
import { listenDps } from "./dps.ts";
import { enrollmentApi } from "./enrollment-api.ts";
import { hubComponents, hubMetrics, type HubHealthParts } from "./health.ts";
import { LedgerMonitor } from "./ledger-monitor.ts";
import { monitorApi } from "./monitor-api.ts";
import { listenMqtt } from "./mqtt.ts";
import { CrlFollower } from "./crls.ts";
import { Registry } from "./registry.ts";
import { groupsApi } from "./groups-api.ts";
import { hubPages } from "./pages.ts";
import { passportsApi } from "./passports-api.ts";
import { Reporter, type ReportedSite } from "./reporter.ts";
import { revocationApi } from "./revocation-api.ts";
import { siteCrls } from "./site-crls.ts";
import { Sightings } from "./sightings.ts";
import { TelemetryWriter } from "./telemetry.ts";
import { Traffic } from "./traffic.ts";
import { trafficApi } from "./traffic-api.ts";

export interface Hub {
  apiPort: number;
  mqttPort: number;
  amqpPort: number | undefined;
  /** Ends connections, lets telemetry that was taken be stored, closes the database. */
  stop(): Promise<void>;
}

/**
 * Starts the hub: the service devices connect to. It shares nothing with any site and knows only the CAs registered
 * with it.
 * @throws CountersignError `component-missing` when a file of the configuration isn't there, `component-unreachable`
 *   when the database is not
 */
export async function startHub(config: HubConfig, logger: Logger = createLogger({ name: "hub", level: config.log })) {
  const tls = { key: readPart(config.tls.key), cert: readPart(config.tls.cert) };
  const clientCa = readPart(config.clientCa);
  const { url, passwordFile, connections } = config.database;
  const db = connect(url, {
    name: "hub",
    max: connections,
    ...(passwordFile === undefined ? {} : { password: readPart(passwordFile).trim() }),
  });
  const opened: (() => Promise<unknown>)[] = [() => db.end()];
  const stop = async (): Promise<void> => {
    for (const close of opened.splice(0).reverse()) await close();
  };
  try {
    await migrateHub(db).catch((cause: unknown) => {
      if (cause instanceof CountersignError) throw cause;
      throw new CountersignError("component-unreachable", `can't reach the hub's database (${String(cause)})`, {
        cause,
      });
    });
    const sites = reportedSites(config);
    const sightings = reporting(sites, db, logger, opened);
    const registry = new Registry(db, logger, { staleCrl: config.crls.stale });
    await registry.start();
    opened.push(async () => registry.stop());
    const follower = new CrlFollower(
      db,
      logger,
      config.crls.everySeconds * 1000,
      siteCrls(db, registry, sites, logger),
    );
    opened.push(() => follower.stop());
    const monitor = config.monitor && new LedgerMonitor(db, logger, config.monitor);
    await monitor?.start();
    if (monitor !== undefined) opened.push(() => monitor.stop());
    const admission = new Admission(db, registry, (seen) => sightings?.see(seen), monitor);
    const telemetry = new TelemetryWriter(db);
    opened.push(() => telemetry.idle());
    const traffic = new Traffic(db, logger, registry.processId);
    await traffic.start();
    opened.push(async () => traffic.stop());
    const door = { host: config.host, tls, admission, telemetry, traffic, db, logger };
    const mqtt = await listenMqtt({ ...config.mqtt, ...door });
    opened.push(() => mqtt.close());
    const amqp = config.amqp === undefined ? undefined : await openAmqp({ ...config.amqp, ...door });
    if (amqp !== undefined) opened.push(() => amqp.close());
    if (config.dps !== undefined) {
      const dps = await listenDps({ ...config.dps, tls, admission, db, logger });
      opened.push(() => dps.close());
    }
    const pruning = hubPrunings(db, config.retention);
    opened.push(
      keepPruned(pruning, {
        done: (gone) => logger.info({ gone }, "what isn't kept any longer was taken away"),
        fault: (error) => logger.error({ err: error }, "what isn't kept any longer can't be taken away"),
      }),
    );
    const doors = { mqtt, ...(amqp === undefined ? {} : { amqp }) };
    const health: HubHealthParts = { db, registry, telemetry, doors };
    if (config.management !== undefined) {
      const management = await startManagement({ ...config.management, logger }, () => hubMetrics(health));
      opened.push(() => management.close());
    }
    const api = createServer({ tls: { ...tls, clientCa }, logger, bodyLimit: 256 * 1024 });
    registerReadiness(api, () => hubComponents(health));
    managementApi(api, { db, registry, mqtt, codeHours: config.codeHours });
    revocationApi(api, { db, registry, follower });
    groupsApi(api, { db, registry });
    monitorApi(api, { db, registry, settings: config.monitor });
    hubPages(api, { db, registry, codeHours: config.codeHours });
    trafficApi(api, { db, traffic });
    enrollmentApi(api, { db });
    passportsApi(api, { db, registry });
    opened.push(() => api.close());
    await api.listen({ host: config.host, port: config.api.port });
    const apiPort = (api.server.address() as AddressInfo).port;
    const hub: Hub = { apiPort, mqttPort: mqtt.port, amqpPort: amqp?.port, stop };
    logger.info({ apiPort, mqttPort: mqtt.port }, "hub is up");
    return hub;
  } catch (error) {
    await stop().catch(() => undefined);
    throw error;
  }
}

/** The library is loaded where it is used. */
async function openAmqp(options: AmqpOptions): Promise<AmqpListener> {
  const { listenAmqp } = await import("./amqp.ts");
  return listenAmqp(options);
}

/** Notes and reports what devices are seen with, when there is somebody to report to. */
function reporting(
  sites: readonly ReportedSite[],
  db: Db,
  logger: Logger,
  opened: (() => Promise<unknown>)[],
): Sightings | undefined {
  if (sites.length === 0) return undefined;
  const reporter = new Reporter(db, sites, logger);
  opened.push(() => reporter.stop());
  const sightings = new Sightings(db, logger, () => reporter.wake());
  opened.push(() => sightings.idle());
  return sightings;
}

function reportedSites(config: HubConfig): ReportedSite[] {
  return config.report.map(({ name, url, ...files }) => ({
    name: name ?? new URL(url).host.replaceAll(/[^A-Za-z0-9._-]/g, "-"),
    url,
    ca: readPart(files.ca),
    cert: readPart(files.cert),
    key: readPart(files.key),
  }));
}

function readPart(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (cause) {
    throw new CountersignError("component-missing", `the hub can't read ${file}`, { cause });
  }
}
