import { existsSync, readFileSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { z } from "zod";
import { EMBEDDED_HUB } from "../../contracts/hubs.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { azureHubSettings, resolveAzureHub } from "../../services/hub/azure/settings.ts";
import { httpUrl, httpsUrl, origin, partyId } from "../../lib/records/primitives.ts";

/**
 * A site's whole configuration. It holds no secret: PINs and passwords are named by their files. Relative paths start
 * at the configuration file's folder.
 */

const path = z.string().min(1).max(4096);
const port = z.int().min(0).max(65_535);
const days = z.int().min(1).max(36_500);
const seconds = z.int().min(1).max(86_400);

const token = z.strictObject({
  /** RFC 7512, naming the token: `pkcs11:token=factory-y` */
  uri: z.string().startsWith("pkcs11:").max(512),
  pinFile: path,
});

const limit = z.int().min(1).max(3_600_000);

const hsmModule = {
  /** absolute path of the PKCS#11 module */
  module: path,
  /** SoftHSM only: its configuration file; made, with an empty token folder, when it isn't there */
  softhsm2Conf: path.optional(),
  /**
   * Sessions a token, each signing on a thread of its own: a network HSM scales by them. UV_THREADPOOL_SIZE of the
   * process must be at least the sum over its tokens, better twice that and four more; the embedded stack sees to it.
   * A token that takes less than 0.3 ms for a signature (SoftHSM) signs a batch's certificates on one of them.
   */
  sessions: z.int().min(1).max(256).default(4),
  /** when a token counts as out of reach; what is left out is as in hsm/limits.ts */
  limits: z
    .strictObject({
      callTimeoutMs: limit,
      waitTimeoutMs: limit,
      maxWaiting: limit,
      failures: limit,
      retryAfterMs: limit,
    })
    .partial()
    .optional(),
};

/** What the site's token holds for other uses. */
const ROLE_KEYS = ["act", "log", "witness", "image", "infra", "ca", "root"];

export const siteConfigSchema = z.strictObject({
  schema: z.literal("countersign/site/v1"),
  party: partyId,
  /** for people: `Factory-Y` */
  name: z.string().min(1).max(64),
  role: z.enum(["manufacturer", "factory", "technician"]),
  origin,
  /** O of the certificates this site asks for */
  organization: z.string().min(1).max(64),
  database: z.strictObject({
    /** postgres://role@host:port/database, without a password */
    url: z.string().regex(/^postgres(ql)?:\/\/[^:@/]+@/, "expected postgres://role@host..., without a password"),
    passwordFile: path,
  }),
  temporal: z.strictObject({ address: z.string().min(1).max(256), namespace: z.string().min(1).max(256) }),
  hsm: z.strictObject({
    ...hsmModule,
    /**
     * Processes that sign device certificates beside the site's own, each with a login and `sessions` sessions of its
     * own: SoftHSM scales by them. 0: the site's own process signs.
     */
    processes: z.int().min(0).max(32).default(0),
    /**
     * A program that prints `{"signatures": N}`, how many the CA's keys (`ca`, and `ca-N` after a
     * rotation) have made together by their token's own count or audit log:
     * compared with what this site asked for. Left out: the token counts nothing (SoftHSM).
     */
    audit: z.strictObject({ command: z.array(z.string().min(1).max(4096)).min(1).max(32) }).optional(),
    tokens: z.strictObject({
      /** keys act, log, witness, infra */
      site: token,
      /** key ca: the online CA. A manufacturer has none; its root is the ceremony's alone. */
      ca: token.optional(),
    }),
  }),
  gateway: z.strictObject({
    host: z.string().min(1).max(255).default("127.0.0.1"),
    port,
    publicPort: port,
    /** as other parties reach them */
    url: httpsUrl,
    publicUrl: httpUrl,
    tls: z.strictObject({ keyFile: path, certFile: path, clientCaFile: path }),
  }),
  /** `/metrics` in Prometheus' text format, without TLS: keep it on loopback, or in a network of its own */
  management: z.strictObject({ host: z.string().min(1).max(255).default("127.0.0.1"), port }).optional(),
  /** the hub's management API, for a site that registers CAs there */
  hub: z.strictObject({ url: httpsUrl, caFile: path, certFile: path, keyFile: path }).optional(),
  /**
   * Hubs that are handed each CRL of this site's online CA when something is revoked, so that they don't find it only when
   * they look: management API, and the CA of its server certificate.
   */
  notify: z
    .array(z.strictObject({ url: httpsUrl, caFile: path }))
    .max(16)
    .default([]),
  /** Azure IoT Hubs that this site's online CA is registered at, each by the name that commands call it */
  hubs: z
    .record(
      z
        .string()
        .regex(/^[a-z0-9][a-z0-9-]{0,31}$/)
        .refine((name) => name !== EMBEDDED_HUB, "is the name of this program's own hub"),
      azureHubSettings,
    )
    .default({}),
  witness: z
    .strictObject({
      /**
       * C2SP tlog-policy of this site's own log: the witnesses to ask, each with its submission prefix as URL, and the
       * quorum that has to cosign before anything is released. Left out: parent and children, any one of them.
       */
      policyFile: path.optional(),
      /** tlog-policy whose `log` lines name logs that this site's witness cosigns beside its parent's and children's */
      logsFile: path.optional(),
      /**
       * What this site's witness cosigned last of each log, outside the database: a restored one must not make it cosign
       * another history. Better on another disk.
       */
      dir: path.default("witness"),
    })
    .prefault({}),
  /**
   * Label of a P-256 key in the site's token, for this alone: it signs checkpoints too, on a second line, for readers that
   * don't know Ed25519. Made by the site's set-up. Left out: one line.
   */
  secondLogKey: z
    .string()
    .regex(/^[a-z0-9-]{1,64}$/)
    .refine((label) => !ROLE_KEYS.includes(label), "is the label of another key")
    .optional(),
  /**
   * A copy of the site's ledger outside the database, never behind what was published; better on another disk. What a
   * restored database is held against, and rebuilt from.
   */
  ledgerDir: path.default("ledger"),
  imagesDir: path,
  firmwareDir: path,
  /** what waits to be recorded or certified; docs/commands.md */
  intake: z
    .strictObject({
      /** batches of one lot that may wait, of up to 256 CSRs each; more are answered 429 */
      waitingBatches: z.int().min(1).max(100_000).default(1_000),
    })
    .prefault({}),
  /** how long what nobody needs for good is kept; docs/retention.md */
  retention: z
    .strictObject({
      /** CSRs and manifests of batches that are done */
      batchDays: days.default(30),
      /** bodies and envelopes of messages that were delivered or handled; longer than the oldest backup of a peer */
      messageDays: days.default(400),
      /** every signed checkpoint; afterwards those alone that a quorum cosigned, the last one of so many seconds */
      checkpointDays: days.default(90),
      checkpointSeconds: seconds.default(60),
      /** every checkpoint of others that this site cosigned; afterwards the last one of so many seconds */
      witnessedDays: days.default(90),
      witnessedSeconds: seconds.default(3600),
    })
    .prefault({}),
  logLevel: z.enum(["trace", "debug", "info", "warn", "error", "fatal", "silent"]).default("info"),
});
export type SiteConfig = z.output<typeof siteConfigSchema>;

/** What the one-shot ceremony process gets: the site's configuration for its database and Temporal, and the root token. */
export const ceremonyConfigSchema = z.strictObject({
  schema: z.literal("countersign/ceremony/v1"),
  siteConfig: path,
  hsm: z.strictObject({ ...hsmModule, token }),
});
export type CeremonyConfig = z.output<typeof ceremonyConfigSchema>;

/** @throws CountersignError `component-missing` when the file isn't there, `input-invalid` when it doesn't hold */
export function loadSiteConfig(file: string): SiteConfig {
  const { config, at } = read(file, siteConfigSchema);
  const { hsm, gateway, hub, hubs, witness } = config;
  const tokenAt = (t: z.output<typeof token>) => ({ ...t, pinFile: at(t.pinFile) });
  return {
    ...config,
    database: { ...config.database, passwordFile: at(config.database.passwordFile) },
    hsm: {
      ...hsm,
      ...(hsm.softhsm2Conf === undefined ? {} : { softhsm2Conf: at(hsm.softhsm2Conf) }),
      tokens: {
        site: tokenAt(hsm.tokens.site),
        ...(hsm.tokens.ca === undefined ? {} : { ca: tokenAt(hsm.tokens.ca) }),
      },
    },
    gateway: {
      ...gateway,
      tls: {
        keyFile: at(gateway.tls.keyFile),
        certFile: at(gateway.tls.certFile),
        clientCaFile: at(gateway.tls.clientCaFile),
      },
    },
    ...(hub === undefined
      ? {}
      : { hub: { url: hub.url, caFile: at(hub.caFile), certFile: at(hub.certFile), keyFile: at(hub.keyFile) } }),
    hubs: Object.fromEntries(Object.entries(hubs).map(([name, one]) => [name, resolveAzureHub(one, at)])),
    notify: config.notify.map(({ url, caFile }) => ({ url, caFile: at(caFile) })),
    witness: {
      ...(witness.policyFile === undefined ? {} : { policyFile: at(witness.policyFile) }),
      ...(witness.logsFile === undefined ? {} : { logsFile: at(witness.logsFile) }),
      dir: at(witness.dir),
    },
    ledgerDir: at(config.ledgerDir),
    imagesDir: at(config.imagesDir),
    firmwareDir: at(config.firmwareDir),
  };
}

/** @throws as {@link loadSiteConfig} */
export function loadCeremonyConfig(file: string): CeremonyConfig {
  const { config, at } = read(file, ceremonyConfigSchema);
  const { hsm } = config;
  return {
    ...config,
    siteConfig: at(config.siteConfig),
    hsm: {
      ...hsm,
      ...(hsm.softhsm2Conf === undefined ? {} : { softhsm2Conf: at(hsm.softhsm2Conf) }),
      token: { ...hsm.token, pinFile: at(hsm.token.pinFile) },
    },
  };
}

/** @throws CountersignError `component-missing`, `input-invalid` */
function read<T extends z.ZodType>(file: string, schema: T): { config: z.output<T>; at: (path: string) => string } {
  if (!existsSync(file)) throw new CountersignError("component-missing", `there is no configuration file ${file}`);
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(file, "utf8"));
  } catch (cause) {
    throw new CountersignError("input-invalid", `${file} isn't readable JSON`, { cause });
  }
  const parsed = schema.safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw new CountersignError(
      "input-invalid",
      `${file}: ${issue?.path.join(".") ?? ""}: ${issue?.message ?? "invalid"}`,
    );
  }
  const folder = dirname(resolve(file));
  return { config: parsed.data, at: (path) => resolve(folder, path) };
}
