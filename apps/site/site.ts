import { existsSync, readFileSync } from "node:fs";
import { acceptanceActivities } from "../../activities/acceptance.ts";
import { ceremonyRecordActivities } from "../../activities/ceremony-record.ts";
import { custodyActivities } from "../../activities/custody.ts";
import { delegationActivities } from "../../activities/delegation.ts";
import { firmwareActivities } from "../../activities/firmware.ts";
import { hubLineActivities } from "../../activities/hub-line.ts";
import { hubRevocationActivities } from "../../activities/hub-revocations.ts";
import { hubRegistrationActivities } from "../../activities/hub-registration.ts";
import { issuingActivities } from "../../activities/issuing.ts";
import { revocationActivities } from "../../activities/revocation.ts";
import { rotationActivities } from "../../activities/rotation.ts";
import { LANES } from "../../contracts/lots.ts";
import { QUEUES } from "../../contracts/queues.ts";
import { nodeVerify, type Token } from "../../hsm/index.ts";
import { CountersignError, errorCodeOf } from "../../lib/domain/errors.ts";
import { parseCertificatesPem } from "../../lib/pki/certificate.ts";
import type { CustodyContext } from "../../services/custody/context.ts";
import type { HubRegistry } from "../../services/hub/registry.ts";
import type { IssuingContext } from "../../services/issuing/context.ts";
import { UnderWay } from "../../services/issuing/under-way.ts";
import { actKey, Acts, createLedger, Sequencer } from "../../services/ledger/index.ts";
import { Applier } from "../../services/parties/applier.ts";
import { crlUrl } from "../../services/parties/ca.ts";
import { keepCrls } from "../../services/parties/own-cas.ts";
import { actKeyId, type Identity } from "../../services/parties/identity.ts";
import { Inbox } from "../../services/parties/inbox.ts";
import { Outbox } from "../../services/parties/outbox.ts";
import { accountedToken, type CaToken } from "../../services/reconcile/accounted.ts";
import { watchInbox } from "../../services/reconcile/inbox.ts";
import { keepPruned } from "../../services/retention/prune.ts";
import { sitePrunings } from "../../services/retention/site.ts";
import type { Cosigned } from "../../services/witness/release.ts";
import { connect, migrate, type Db } from "../../store/db.ts";
import { caLabel } from "../../store/authority.ts";
import { acceptedGrants } from "../../store/grants.ts";
import { startGateway, type Gateway } from "../gateway/gateway.ts";
import { registerHubs } from "../gateway/routes/hubs.ts";
import { registerLots } from "../gateway/routes/lots.ts";
import { registerReconcile } from "../gateway/routes/reconcile.ts";
import type { Logger } from "../http/logger.ts";
import { startManagement } from "../http/management.ts";
import type { SiteConfig } from "./config.ts";
import { type HealthParts, siteComponents, siteMetrics } from "./health.ts";
import type { IssuingProcesses } from "./issuing/issuing-processes.ts";
import { startIssuing } from "./issuing/start.ts";
import { watchExpiry } from "./expiry.ts";
import { keepHubs } from "./hub-keeper.ts";
import { hubAccess, plannedHub, siteHubs } from "./hubs.ts";
import { messageHandlers, onRefusedMessage } from "./messages.ts";
import { assertLedgerWhole, ledgerGuard } from "./ledger-guard.ts";
import { keepReconciled } from "./reconciler.ts";
import { siteSignatureAudit } from "./signature-audit.ts";
import { startTemporalSide, type TemporalSide } from "./temporal.ts";
import { caSettings, openConfigured, useSoftHsm } from "./tokens.ts";
import { sitePolicy, witnessSides } from "./witness.ts";

const CRL_CHECK_MS = 3_600_000;
const DATABASE_CONNECTIONS = 24;

/** What was started, ended in the reverse order. */
class Started {
  readonly #stops: { name: string; stop: () => Promise<unknown> | unknown }[] = [];
  readonly #logger: Logger;

  constructor(logger: Logger) {
    this.#logger = logger;
  }

  add(name: string, stop: () => Promise<unknown> | unknown): void {
    this.#stops.push({ name, stop });
  }

  async stop(): Promise<void> {
    for (let part = this.#stops.pop(); part; part = this.#stops.pop()) {
      const since = performance.now();
      try {
        await part.stop();
        this.#logger.debug({ part: part.name, ms: Math.round(performance.now() - since) }, "stopped");
      } catch (error) {
        this.#logger.error({ err: error, part: part.name }, "a component didn't stop cleanly");
      }
    }
  }
}

/** One running site: everything that a party's process holds, and nothing of another party's. */
export class Site {
  readonly config: SiteConfig;
  readonly gateway: Gateway;
  readonly db: Db;
  readonly temporal: TemporalSide;
  readonly #started: Started;

  private constructor(config: SiteConfig, running: Running, started: Started) {
    this.config = config;
    this.gateway = running.gateway;
    this.db = running.db;
    this.temporal = running.temporal;
    this.#started = started;
  }

  /**
   * @param onFailure a component ended by itself; the process had better end too, and be started again
   * @throws CountersignError `hsm-*`, `component-unreachable`, `component-missing` and what init has left undone
   */
  static async start(config: SiteConfig, logger: Logger, onFailure: (error: unknown) => void): Promise<Site> {
    const started = new Started(logger);
    try {
      return new Site(config, await launch(config, logger, onFailure, started), started);
    } catch (error) {
      await started.stop();
      throw error;
    }
  }

  /** The front door first, the tokens last. */
  stop(): Promise<void> {
    return this.#started.stop();
  }
}

interface Running {
  readonly gateway: Gateway;
  readonly db: Db;
  readonly temporal: TemporalSide;
}

async function launch(
  config: SiteConfig,
  logger: Logger,
  onFailure: (error: unknown) => void,
  started: Started,
): Promise<Running> {
  useSoftHsm(config.hsm);
  const { tokens } = config.hsm;
  const token = await openConfigured(config.hsm, tokens.site);
  started.add("token", () => token.close());
  const caToken = tokens.ca === undefined ? undefined : await openConfigured(caSettings(config.hsm), tokens.ca);
  if (caToken) started.add("CA token", () => caToken.close());
  const processes = await startIssuing(config.hsm, logger);
  if (processes) started.add("issuing processes", () => processes.stop());
  const identity = await readIdentity(config, token);

  const db = connect(config.database.url, {
    password: readFileSync(config.database.passwordFile, "utf8").trim(),
    max: DATABASE_CONNECTIONS,
    name: `site ${config.party}`,
  });
  started.add("database", () => db.end());
  await migrate(db);

  await createLedger({ db, origin: config.origin, signer: identity.log });
  const policy = sitePolicy(config, db, identity);
  const { copy, guard } = ledgerGuard(config, db, identity, policy);
  await assertLedgerWhole(db, identity, guard, logger);
  const acts = new Acts({ db, origin: config.origin, party: config.party, wake: () => sequencer.wake() });
  const sequencer: Sequencer = new Sequencer({
    db,
    origin: config.origin,
    signer: identity.log,
    ...(config.secondLogKey === undefined ? {} : { second: await token.signer(config.secondLogKey) }),
    actKeys: () => [actKey(identity.act.spki, identity.act.algorithm)],
    verify: nodeVerify,
    standing: async () => ({ root: config.role === "manufacturer", grants: await acceptedGrants(db) }),
    ...guard,
    vouched: (leafHash) => acts.vouches(leafHash),
    sequenced: (leafHashes) => acts.forget(leafHashes),
    onError(error) {
      logger.error({ err: error }, "the sequencer had a fault");
      // What it holds contradicts its signatures, or lacks some of what they are over: nothing is released any more, so
      // the site must not look as if it were.
      if (["ledger-forked", "ledger-behind"].includes(errorCodeOf(error))) onFailure(error);
    },
  });
  sequencer.start();
  started.add("ledger copy", () => copy.close());
  started.add("sequencer", () => sequencer.stop());
  started.add("acts", () => acts.close());

  const { witness, witnessMemory, feed } = witnessSides(config, db, identity, policy, logger);
  await feed.start();
  started.add("witness feed", () => feed.stop());
  const cosigned: Cosigned = (size) => feed.cosigned(size);

  const custody: CustodyContext = {
    db,
    acts,
    cosigned,
    party: config.party,
    actSigner: identity.act,
    imageSigner: identity.imageSigning,
    firmwareDir: config.firmwareDir,
    imagesDir: config.imagesDir,
  };
  const accounted = caToken === undefined ? undefined : accountedToken(caToken, db);
  const hubs = siteHubs(config);
  const underWay = new UnderWay(LANES);
  const issuing = issuingContext(config, { db, acts, underWay, caToken, processes });
  const temporal = await startTemporalSide(
    {
      ...config.temporal,
      taskQueue: QUEUES.site,
      activities: siteActivities(config, {
        ...{ db, acts, identity, caToken: accounted, issuing, custody, cosigned },
        ...{ logger, hubs },
      }),
      logger,
    },
    onFailure,
  );
  started.add("Temporal", () => temporal.stop());
  const { workflow } = temporal.client;

  const reconciling = { ...issuing, actSigner: identity.act };
  const applier = new Applier({
    db,
    handlers: watchInbox(messageHandlers(config.party, workflow, custody), reconciling),
    onFault: (id, error) => logger.warn({ message: id, err: error }, "a message had no effect yet"),
  });
  await applier.start();
  started.add("inbox", () => applier.stop());
  const outbox = new Outbox({
    db,
    party: config.party,
    signer: identity.act,
    keyId: actKeyId(identity),
    onRefused: onRefusedMessage(config.party, workflow, db),
    onFault: (receiver, error) => logger.warn({ receiver, err: error }, "a message isn't delivered yet"),
  });
  await outbox.start();
  started.add("outbox", () => outbox.stop());
  if (accounted) started.add("CRL", keepCrlFresh(db, accounted, logger));
  const { audit } = config.hsm;
  const compare = audit && caToken ? siteSignatureAudit(reconciling, audit.command, caToken, processes) : undefined;
  started.add("reconciliation", keepReconciled(reconciling, logger, compare));
  const pruning = keepPruned(sitePrunings(db, config.retention), {
    done: (gone) => logger.info({ gone }, "what isn't kept any longer was taken away"),
    fault: (error) => logger.error({ err: error }, "what isn't kept any longer can't be taken away; it is tried again"),
  });
  started.add("retention", pruning);

  started.add("hubs", await keepHubs({ db, hubs, workflows: workflow, logger }));
  started.add("expiry", watchExpiry(db, identity, logger));

  const health: HealthParts = {
    db,
    workflows: () => temporal.connection.ensureConnected(),
    token,
    caToken,
    processes,
    identity,
  };
  if (config.management) {
    const management = await startManagement({ ...config.management, logger }, () => siteMetrics(health));
    started.add("management", () => management.close());
  }
  const { gateway: settings } = config;
  const gateway = await startGateway(
    {
      host: settings.host,
      port: settings.port,
      publicPort: settings.publicPort,
      tls: {
        key: readFileSync(settings.tls.keyFile, "utf8"),
        cert: readFileSync(settings.tls.certFile, "utf8"),
        clientCa: readFileSync(settings.tls.clientCaFile, "utf8"),
      },
      logger,
    },
    {
      db,
      identity,
      name: config.name,
      role: config.role,
      onlineCa: caToken !== undefined,
      hubConfigured: config.hub !== undefined,
      inbox: new Inbox({ db, party: config.party, verify: nodeVerify }),
      witness,
      witnessMemory,
      witnesses: () => feed.status(),
      workflows: workflow,
      components: () => siteComponents(health),
    },
    [
      (app) => registerLots(app, { db, identity, workflows: workflow, custody, underWay, ...config.intake }),
      (app) => registerReconcile(app, reconciling),
      (app) =>
        registerHubs(app, {
          db,
          party: config.party,
          workflows: workflow,
          hubs,
          planned: (name) => plannedHub(config, name),
        }),
    ],
  );
  started.add("gateway", () => gateway.close());
  return { gateway, db, temporal };
}

async function readIdentity(config: SiteConfig, token: Token): Promise<Identity> {
  const file = config.gateway.tls.clientCaFile;
  if (!existsSync(file))
    throw new CountersignError("component-missing", `${file} is missing: run apps/site/init.ts first`);
  const [certificate] = parseCertificatesPem(readFileSync(file, "utf8"));
  if (!certificate) throw new CountersignError("component-missing", `${file} holds no certificate`);
  return {
    party: config.party,
    organization: config.organization,
    origin: config.origin,
    gatewayUrl: config.gateway.url,
    publicUrl: config.gateway.publicUrl,
    act: await token.signer("act"),
    log: await token.signer("log"),
    witness: await token.signer("witness"),
    imageSigning: await token.imageKey("image"),
    infrastructure: { certificate: certificate.der, spki: certificate.spki },
  };
}

interface Parts {
  readonly db: Db;
  readonly acts: Acts;
  readonly identity: Identity;
  readonly caToken: CaToken | undefined;
  readonly issuing: IssuingContext;
  readonly custody: CustodyContext;
  readonly cosigned: Cosigned;
  readonly logger: Logger;
  readonly hubs: ReadonlyMap<string, HubRegistry>;
}

function issuingContext(
  config: SiteConfig,
  parts: Pick<Parts, "db" | "acts"> & {
    underWay: UnderWay;
    caToken: Token | undefined;
    processes: IssuingProcesses | undefined;
  },
): IssuingContext {
  const { db, acts, underWay, caToken, processes } = parts;
  return {
    db,
    acts,
    underWay,
    party: config.party,
    caKey: async (caKeyId) => {
      const label = await caLabel(db, caKeyId);
      if (processes) return processes.caKey(label);
      if (caToken) return caToken.caKey(label);
      throw new CountersignError("hsm-key-missing", "this site has no online CA: it issues no device certificates");
    },
    crlUrl: (caKeyId) => crlUrl(config.gateway.publicUrl, caKeyId),
  };
}

function siteActivities(config: SiteConfig, parts: Parts): object {
  const { db, acts, identity, caToken, issuing, custody, cosigned, logger, hubs } = parts;
  const hub = hubAccess(config);
  return {
    ...delegationActivities({ db, identity, acts, caToken }),
    ...(caToken ? acceptanceActivities({ db, identity, acts, caToken }) : {}),
    ...(caToken ? rotationActivities({ db, identity, acts, caToken }) : {}),
    ...ceremonyRecordActivities({ db, identity, acts }),
    ...hubRegistrationActivities({ db, identity, acts, hub, cosigned }),
    ...revocationActivities({
      ...{ db, acts, actSigner: identity.act, caToken, hub },
      notify: config.notify.map(({ url, caFile }) => ({ url, ca: readFileSync(caFile, "utf8") })),
      onFault: (url, error) => logger.warn({ err: error, hub: url }, "a hub isn't told of a revocation yet"),
    }),
    ...hubRevocationActivities({
      ...{ db, hubs },
      onFault: (name, subject, error) =>
        logger.warn({ err: error, hub: name, subject }, "a hub isn't told of a revocation yet"),
    }),
    ...hubLineActivities({ db, identity, acts, caToken, hubs, cosigned }),
    ...custodyActivities(custody),
    ...issuingActivities(issuing),
    ...firmwareActivities(custody),
  };
}

/** Renews the online CA's CRL at the start and hourly, when its time has come. Gives the way to stop. */
function keepCrlFresh(db: Db, caToken: CaToken, logger: Logger): () => Promise<void> {
  let running: Promise<void> = Promise.resolve();
  const look = (): void => {
    running = (async () => {
      await keepCrls(db, caToken, new Date());
    })().catch((error: unknown) => logger.error({ err: error }, "the CRL can't be renewed"));
  };
  look();
  const timer = setInterval(look, CRL_CHECK_MS);
  return () => {
    clearInterval(timer);
    return running;
  };
}
