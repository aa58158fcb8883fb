import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { WorkflowFailedError, WorkflowIdConflictPolicy, WorkflowIdReusePolicy } from "@temporalio/client";
import { ActivityFailure, ApplicationFailure } from "@temporalio/common";
import { ceremonyActivities } from "../../activities/ceremony.ts";
import { workflowIds } from "../../contracts/parties.ts";
import { QUEUES } from "../../contracts/queues.ts";
import { ERROR_KINDS, type ErrorCode } from "../../lib/domain/error-codes.ts";
import { CountersignError, errorCodeOf, exitCodeOf } from "../../lib/domain/errors.ts";
import { sha256Hex } from "../../lib/domain/hash.ts";
import { parseCeremony } from "../../lib/records/ceremony.ts";
import { storeCeremony } from "../../store/authority.ts";
import { connect } from "../../store/db.ts";
import { createLogger, type Logger } from "../http/logger.ts";
import { stopOnSignals } from "../http/process.ts";
import { loadCeremonyConfig, loadSiteConfig } from "./config.ts";
import { startTemporalSide } from "./temporal.ts";
import { ensureSoftHsm, ensureToken, openConfigured, useSoftHsm } from "./tokens.ts";

/**
 * The ceremony's process: the only one that is given the root token's PIN. It signs what the reviewed document says,
 * closes the token and ends. The site must be running: it records what was done.
 *
 *   node apps/site/ceremony.ts --config .countersign/company-x/root/ceremony.json --document ceremony.yaml
 */

const RESULT_MS = 5 * 60_000;
/** Longer than connecting to Temporal, and a worker's end, may take. */
const STOP_MS = 45_000;

export interface CeremonyOutcome {
  readonly rootSha256: string;
  readonly children: string[];
  readonly hub: string | null;
}

/**
 * @param stopped gives the ceremony up: the root's token is closed as after any other end
 * @throws CountersignError what the document, the database or the token refuse; `timeout` when the site doesn't work on
 *   it; the signal's reason
 */
export async function holdCeremony(
  configFile: string,
  document: Uint8Array,
  logger: Logger,
  stopped: AbortSignal,
): Promise<CeremonyOutcome> {
  const { party } = parseCeremony(document);
  const config = loadCeremonyConfig(configFile);
  const site = loadSiteConfig(config.siteConfig);
  if (party !== site.party)
    throw new CountersignError("input-invalid", `the ceremony is ${party}'s, this site is ${site.party}`);
  const documentSha256 = sha256Hex(document);

  const db = connect(site.database.url, { password: readFileSync(site.database.passwordFile, "utf8").trim(), max: 4 });
  try {
    stopped.throwIfAborted();
    await storeCeremony(db, { id: party, document, sha256: documentSha256 });
    ensureSoftHsm(config.hsm);
    useSoftHsm(config.hsm);
    await ensureToken(config.hsm, config.hsm.token);
    const rootToken = await openConfigured(config.hsm, config.hsm.token);
    try {
      stopped.throwIfAborted();
      const activities = ceremonyActivities({ db, rootToken, document, publicUrl: site.gateway.publicUrl });
      const queue = { ...site.temporal, taskQueue: QUEUES.ceremony, workflows: false, activities, logger };
      const temporal = await startTemporalSide(queue, (error) => logger.error({ err: error }, "the worker ended"));
      try {
        stopped.throwIfAborted();
        logger.info({ party }, "the root token is open, the ceremony is held");
        const handle = await temporal.client.workflow.start("rootCeremony", {
          workflowId: workflowIds.ceremony(party),
          taskQueue: QUEUES.site,
          args: [{ documentSha256 }],
          workflowIdReusePolicy: WorkflowIdReusePolicy.ALLOW_DUPLICATE,
          workflowIdConflictPolicy: WorkflowIdConflictPolicy.USE_EXISTING,
        });
        return await inTime(handle.result() as Promise<CeremonyOutcome>, party, stopped);
      } finally {
        await temporal.stop();
      }
    } finally {
      await rootToken.close();
      logger.info({ party }, "the root token is closed");
    }
  } finally {
    await db.end();
  }
}

async function inTime<T>(result: Promise<T>, party: string, stopped: AbortSignal): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const given = Promise.withResolvers<never>();
  const giveUp = (): void => given.reject(stopped.reason);
  const late = new Promise<never>((_resolve, reject) => {
    const message = `the ceremony isn't finished after ${RESULT_MS / 60_000} minutes: is the site ${party} running? Run it again`;
    timer = setTimeout(() => reject(new CountersignError("timeout", message)), RESULT_MS);
  });
  try {
    stopped.addEventListener("abort", giveUp);
    if (stopped.aborted) giveUp();
    return await Promise.race([result, late, given.promise]);
  } catch (error) {
    throw refusalOf(error);
  } finally {
    clearTimeout(timer);
    stopped.removeEventListener("abort", giveUp);
    result.catch(() => undefined);
  }
}

/** An activity's refusal, as it was before it crossed Temporal. */
function refusalOf(error: unknown): unknown {
  const failure = error instanceof WorkflowFailedError ? error.cause : undefined;
  const cause = failure instanceof ActivityFailure ? failure.cause : failure;
  if (!(cause instanceof ApplicationFailure)) return error;
  const code = cause.type != null && Object.hasOwn(ERROR_KINDS, cause.type) ? (cause.type as ErrorCode) : "internal";
  return new CountersignError(code, cause.message, { cause: error });
}

async function main(): Promise<void> {
  const { values } = parseArgs({ options: { config: { type: "string" }, document: { type: "string" } } });
  if (values.config === undefined || values.document === undefined) {
    throw new CountersignError("usage", "usage: ceremony.ts --config FILE --document FILE");
  }
  const logger = createLogger({ name: "ceremony", level: "info", fd: 2 });
  const stop = new AbortController();
  // The process ends where the ceremony does, with the token closed; what stops on its own way is waited for so long.
  const stopping = (): Promise<void> => {
    const message = "the ceremony was interrupted: what it signed is kept; run it again to finish it";
    stop.abort(new CountersignError("interrupted", message));
    return new Promise(() => undefined);
  };
  stopOnSignals(stopping, { logger, graceMs: STOP_MS });
  const outcome = await holdCeremony(values.config, readFileSync(values.document), logger, stop.signal);
  process.stdout.write(`${JSON.stringify(outcome)}\n`);
}

if (import.meta.main) {
  try {
    await main();
    process.exit(0);
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    process.stdout.write(`${JSON.stringify({ error: { code: errorCodeOf(error), message } })}\n`);
    process.exit(exitCodeOf(error));
  }
}
