import { readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { z } from "zod";
import { CountersignError } from "../../lib/domain/errors.ts";
import { httpUrl, partyId, sha256Hex, vkey } from "../../lib/records/primitives.ts";

const port = z.int().min(0).max(65535);
const siteName = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,46}$/);
const path = z.string().min(1).max(4096);
const connections = z.int().min(1).max(1_000_000);
/** Handshakes and CONNECTs under way; beyond it the one that has taken longest is dropped for the next. */
const maxHalfOpen = connections.default(2_000);

/**
 * `hub.json`, the hub's whole configuration. Paths are relative to the file's folder. It holds no secrets: keys and
 * the database's password are named by file.
 */
export const HubConfigSchema = z.strictObject({
  schema: z.literal("countersign/hub/v1"),
  /** Address both listeners bind to. */
  host: z.string().min(1).max(255).default("127.0.0.1"),
  /** Management API: HTTPS with a client certificate of the hub's infrastructure CA whose OU is `operator`. */
  api: z.strictObject({ port }),
  /** `/metrics` in Prometheus' text format, without TLS: keep it on loopback, or in a network of its own */
  management: z.strictObject({ host: z.string().min(1).max(255).default("127.0.0.1"), port }).optional(),
  /** MQTT 3.1.1 over TLS for devices. */
  mqtt: z.strictObject({
    port,
    maxConnections: connections.default(10_000),
    maxHalfOpen,
    /** Largest MQTT packet, topic and headers included. IoT Hub takes messages of 256 KiB. */
    maxPacketBytes: z
      .int()
      .min(1024)
      .max(1_048_576)
      .default(272 * 1024),
    /** From the accepted connection to CONNECT, milliseconds. */
    connectTimeoutMs: z.int().min(100).max(120_000).default(10_000),
    /** How long a device may leave unread what it was sent, milliseconds. */
    drainTimeoutMs: z.int().min(100).max(120_000).default(20_000),
  }),
  /** AMQP 1.0 over TLS for devices, where it is wanted: 5671 is what clients take by themselves. */
  amqp: z
    .strictObject({
      port,
      maxConnections: connections.default(10_000),
      maxHalfOpen,
      /** Largest message, everything included. */
      maxMessageBytes: z
        .int()
        .min(1024)
        .max(1_048_576)
        .default(272 * 1024),
      /** From the accepted connection to its `open`, milliseconds. */
      connectTimeoutMs: z.int().min(100).max(120_000).default(10_000),
      /** How long a device may leave unread what it was sent, milliseconds. */
      drainTimeoutMs: z.int().min(100).max(120_000).default(20_000),
    })
    .optional(),
  /** Device provisioning (DPS) over MQTT, where it is wanted; at an address of its own, since clients' port is 8883. */
  dps: z
    .strictObject({
      host: z.string().min(1).max(255),
      port,
      /** What clients call the service by, beside its address. */
      idScope: z
        .string()
        .regex(/^[A-Za-z0-9]{1,32}$/)
        .default("0ne00C0FFEE"),
      /** The hub that devices are sent to: HOST, or HOST:PORT where it isn't 8883. */
      assignedHub: z.string().regex(/^[A-Za-z0-9.-]{1,255}(:[0-9]{1,5})?$/),
      maxConnections: connections.default(1_000),
      maxHalfOpen: connections.default(500),
      connectTimeoutMs: z.int().min(100).max(120_000).default(10_000),
    })
    .optional(),
  /** The hub's server certificate (with any intermediates) and its key, for both listeners. */
  tls: z.strictObject({ cert: path, key: path }),
  /** The hub's own infrastructure CA: who may use the management API. */
  clientCa: path,
  database: z.strictObject({
    /** `postgres://role@host:port/database`, without a password. */
    url: z
      .string()
      .regex(/^postgres(ql)?:\/\//)
      .max(1000),
    passwordFile: path.optional(),
    connections: z.int().min(1).max(100).default(10),
  }),
  /** How long a verification code stays good, hours. */
  codeHours: z
    .number()
    .positive()
    .max(24 * 30)
    .default(24),
  /** Revocation lists of the CAs that devices come under (`hub crl add`). */
  crls: z
    .strictObject({
      /** How often those with a URL are looked at. */
      everySeconds: z.number().min(0.1).max(86_400).default(30),
      /** A list that has run out: let devices in by what it last said and raise an alarm, or keep them out. */
      stale: z.enum(["alarm", "refuse"]).default("alarm"),
    })
    .prefault({}),
  /** how long what nobody needs for good is kept */
  retention: z.strictObject({ telemetryDays: z.int().min(1).max(36_500).default(30) }).prefault({}),
  log: z.enum(["trace", "debug", "info", "warn", "error", "silent"]).default("info"),
  /**
   * Sites that are told which of their certificates devices were seen with, so that they can hold them against their
   * ledger: gateway, its infrastructure CA, and this hub's client certificate of that CA (OU `monitor`). Their CAs' CRLs
   * are followed without a command, as `<name>.<key id>`; the name is host and port unless given.
   */
  report: z
    .array(
      z.strictObject({
        name: siteName.optional(),
        url: z.url({ protocol: /^https$/ }),
        ca: path,
        cert: path,
        key: path,
      }),
    )
    .max(1000)
    .default([]),
  /**
   * The parties' ledgers that the hub follows itself: an alarm over a certificate that none of them holds, a slot used
   * twice, a fork, a rollback, a lagging witness. What it means for a device is its CA's: `hub ca unlogged`.
   */
  monitor: z
    .strictObject({
      ledgers: z
        .array(
          z.strictObject({
            party: partyId,
            /** below which `checkpoint` and `tile/` are served */
            url: httpUrl,
            /** of the log; its name is the ledger's origin */
            vkey,
            /** of its log: their keys, and where each is asked what it has seen last */
            witnesses: z
              .array(z.strictObject({ vkey, url: httpUrl.optional() }))
              .max(16)
              .default([]),
          }),
        )
        .min(1)
        .max(1000)
        .refine(
          (ledgers) => new Set(ledgers.map(({ party }) => party)).size === ledgers.length,
          "a party has one ledger",
        )
        .refine(
          (ledgers) => new Set(ledgers.map((one) => one.vkey.split("+")[0])).size === ledgers.length,
          "two parties share no log",
        ),
      /** of the root's DER, that its party's ceremony must have made */
      rootSha256: sha256Hex.optional(),
      everySeconds: z.number().min(0.1).max(86_400).default(10),
      /** for how long a witness may leave something uncosigned */
      lagSeconds: z.number().positive().max(86_400).default(300),
      /** how long a certificate may be in no ledger before that is an alarm */
      graceSeconds: z.number().min(0).max(86_400).default(60),
      /** under `refuse`, while the ledger that would hold a certificate can't be followed: let it in with an alarm, or not */
      unreachable: z.enum(["alarm", "refuse"]).default("alarm"),
    })
    .optional(),
  /** For the command line only, which resolves these paths itself; the hub never reads them. */
  operator: z.strictObject({ url: z.url(), ca: path, cert: path, key: path }).optional(),
});

export type HubConfig = z.output<typeof HubConfigSchema>;

/**
 * Reads `hub.json` and makes its paths absolute.
 * @throws CountersignError `component-missing` when the file isn't there, `input-invalid` when it doesn't hold
 */
export function loadHubConfig(file: string): HubConfig {
  const base = dirname(resolve(file));
  const parsed = HubConfigSchema.safeParse(readJson(file));
  if (!parsed.success) {
    const first = parsed.error.issues[0];
    const where = first?.path.map(String).join(".") ?? "";
    throw new CountersignError("input-invalid", `${file}: ${where}: ${first?.message ?? "not valid"}`);
  }
  const config = parsed.data;
  const at = (name: string): string => resolve(base, name);
  return {
    ...config,
    tls: { cert: at(config.tls.cert), key: at(config.tls.key) },
    clientCa: at(config.clientCa),
    report: config.report.map(({ ca, cert, key, ...site }) => ({ ...site, ca: at(ca), cert: at(cert), key: at(key) })),
    database: {
      ...config.database,
      ...(config.database.passwordFile === undefined ? {} : { passwordFile: at(config.database.passwordFile) }),
    },
  };
}

function readJson(file: string): unknown {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (cause) {
    throw new CountersignError("component-missing", `can't read the hub's configuration ${file}`, { cause });
  }
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw new CountersignError("input-invalid", `${file} is not JSON`, { cause });
  }
}
