import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { formatVkey, parseVkey } from "../../../lib/ledger/note.ts";
import { formatPolicy } from "../../../lib/ledger/policy.ts";
import { witnessPrefix } from "../../../services/parties/identity.ts";
import type { siteConfigSchema } from "../config.ts";
import { HUB_OPERATOR, type ExampleParty } from "./example.ts";
import { CACHE_DIR } from "./machine.ts";
import type { DatabaseLogin } from "./postgres.ts";

/** Writes `site.json` and `hub.json` of the embedded stack. Ports may differ from one start to the next; nothing else does. */

export interface SitePorts {
  readonly gateway: number;
  readonly public: number;
  readonly management: number;
}

const WITNESS_POLICY = "witness-policy.txt";
const WITNESS_LOGS = "witness-logs.txt";

export function siteFolder(home: string, party: string): string {
  return join(home, party);
}

export function writeSiteConfig(
  home: string,
  party: ExampleParty,
  ports: SitePorts,
  database: DatabaseLogin,
  temporal: string,
  pkcs11: string,
  hubUrl: string,
): string {
  const config = {
    schema: "countersign/site/v1",
    party: party.id,
    name: party.name,
    role: party.role,
    origin: `countersign.example/${party.id}`,
    organization: party.name,
    database: { url: database.url, passwordFile: database.passwordFile },
    temporal: { address: temporal, namespace: party.id },
    hsm: {
      module: pkcs11,
      softhsm2Conf: "softhsm/softhsm2.conf",
      sessions: 4,
      ...(party.issuingProcesses === undefined ? {} : { processes: party.issuingProcesses }),
      tokens: {
        site: { uri: `pkcs11:token=${party.id}`, pinFile: "secrets/token-site.pin" },
        ...(party.parent === null
          ? {}
          : { ca: { uri: `pkcs11:token=${party.id}-ca`, pinFile: "secrets/token-ca.pin" } }),
      },
    },
    gateway: {
      host: "127.0.0.1",
      port: ports.gateway,
      publicPort: ports.public,
      url: `https://127.0.0.1:${ports.gateway}`,
      publicUrl: `http://127.0.0.1:${ports.public}`,
      tls: { keyFile: "infra/gateway.key", certFile: "infra/gateway.pem", clientCaFile: "infra/ca.pem" },
    },
    management: { port: ports.management },
    ...(party.id === HUB_OPERATOR
      ? {
          hub: {
            url: hubUrl,
            caFile: "infra/ca.pem",
            certFile: "infra/operator.pem",
            keyFile: "infra/operator.key",
          },
        }
      : {}),
    // A manufacturer's CA is offline: its word to the hub is an operator's.
    notify: party.parent === null ? [] : [{ url: hubUrl, caFile: `../${HUB_OPERATOR}/infra/ca.pem` }],
    witness: { policyFile: WITNESS_POLICY, logsFile: WITNESS_LOGS },
    imagesDir: "images",
    firmwareDir: join(CACHE_DIR, "firmware"),
    logLevel: "info",
  } satisfies z.input<typeof siteConfigSchema>;
  const folder = siteFolder(home, party.id);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const file = join(folder, "site.json");
  writeFileSync(file, `${JSON.stringify(config, null, 2)}\n`, { mode: 0o600 });
  return file;
}

/** As `init` leaves it beside the infrastructure certificates. */
const vkeys = z.strictObject({ party: z.string(), vkey: z.string(), witnessVkey: z.string() });

const vkeysOf = (home: string, id: string): z.infer<typeof vkeys> =>
  vkeys.parse(JSON.parse(readFileSync(join(siteFolder(home, id), "infra", "vkeys.json"), "utf8")));

/**
 * Lets the parties witness each other: every site's log is cosigned by all others, which is what its release acts wait
 * for. Written once every site has its keys.
 */
export function writeWitnessPolicies(
  home: string,
  parties: readonly ExampleParty[],
  publicUrl: (party: string) => string,
): void {
  const sites = parties.map(({ id }) => {
    const keys = vkeysOf(home, id);
    return { id, log: parseVkey(keys.vkey), witness: parseVkey(keys.witnessVkey), url: witnessPrefix(publicUrl(id)) };
  });
  for (const site of sites) {
    const others = sites.filter(({ id }) => id !== site.id);
    const urls = new Map(others.map(({ witness, url }) => [witness, url]));
    const policy = formatPolicy(site.log, [...urls.keys()], "all", urls);
    const logs = `${others.map(({ log }) => `log ${formatVkey(log)}\n`).join("")}quorum none\n`;
    writeFileSync(join(siteFolder(home, site.id), WITNESS_POLICY), policy);
    writeFileSync(join(siteFolder(home, site.id), WITNESS_LOGS), logs);
  }
}

/** As clients take it: their own port isn't named, and some can't be told another. */
const assignedHub = (port: number): string => (port === 8883 ? "127.0.0.1" : `127.0.0.1:${port}`);

export function writeHubConfig(
  home: string,
  ports: {
    api: number;
    management: number;
    mqtt: number;
    dps: { host: string; port: number } | undefined;
    amqp: number | undefined;
  },
  database: DatabaseLogin,
  sites: readonly { id: string; gateway: number; public: number }[],
): string {
  const publicUrl = (port: number): string => `http://127.0.0.1:${port}`;
  const served = sites.map((site) => ({ ...site, ...vkeysOf(home, site.id), url: publicUrl(site.public) }));
  const infra = `../${HUB_OPERATOR}/infra`;
  const config = {
    schema: "countersign/hub/v1",
    host: "127.0.0.1",
    api: { port: ports.api },
    management: { port: ports.management },
    mqtt: { port: ports.mqtt },
    ...(ports.amqp === undefined ? {} : { amqp: { port: ports.amqp } }),
    ...(ports.dps === undefined ? {} : { dps: { ...ports.dps, assignedHub: assignedHub(ports.mqtt) } }),
    tls: { cert: `${infra}/hub.pem`, key: `${infra}/hub.key` },
    clientCa: `${infra}/ca.pem`,
    database: { url: database.url, passwordFile: database.passwordFile },
    report: sites.map(({ id, gateway }) => ({
      name: id,
      url: `https://127.0.0.1:${gateway}`,
      ca: `../${id}/infra/ca.pem`,
      cert: `../${id}/infra/monitor.pem`,
      key: `../${id}/infra/monitor.key`,
    })),
    monitor: {
      ledgers: served.map(({ id, url, vkey }) => ({
        party: id,
        url: `${url}/ledger`,
        vkey,
        witnesses: served
          .filter((other) => other.id !== id)
          .map((other) => ({ vkey: other.witnessVkey, url: witnessPrefix(other.url) })),
      })),
    },
    operator: {
      url: `https://127.0.0.1:${ports.api}`,
      ca: `${infra}/ca.pem`,
      cert: `${infra}/operator.pem`,
      key: `${infra}/operator.key`,
    },
  };
  const folder = siteFolder(home, "hub");
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const file = join(folder, "hub.json");
  writeFileSync(file, `${JSON.stringify(config, null, 2)}\n`, { mode: 0o600 });
  return file;
}
