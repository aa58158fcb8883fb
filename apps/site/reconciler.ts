import type { IssuingContext } from "../../services/issuing/context.ts";
import type { ReconcileContext } from "../../services/reconcile/context.ts";
import { reconcile } from "../../services/reconcile/reconcile.ts";
import type { SignatureAudit } from "../../services/reconcile/signatures.ts";
import type { Logger } from "../http/logger.ts";

const EVERY_MS = 10 * 60_000;

/** Reconciles at the start and every ten minutes, and says what came of it. Gives the way to stop. */
export function keepReconciled(
  context: ReconcileContext & IssuingContext,
  logger: Logger,
  compareSignatures?: () => ReturnType<SignatureAudit["compare"]>,
): () => Promise<void> {
  let running: Promise<void> | undefined;
  const look = (): void => {
    running ??= round(context, logger)
      .then(() => (compareSignatures === undefined ? undefined : count(compareSignatures, logger)))
      .finally(() => (running = undefined));
  };
  look();
  const timer = setInterval(look, EVERY_MS);
  return async () => {
    clearInterval(timer);
    await running;
  };
}

async function count(compare: () => ReturnType<SignatureAudit["compare"]>, logger: Logger): Promise<void> {
  try {
    const alarm = await compare();
    if (alarm === undefined) return;
    const { leafHash: act, excess } = alarm;
    if (excess === undefined) logger.error({ act }, "alarm: the token's count of signatures was set back");
    else logger.error({ act, excess }, "alarm: unaccounted signatures");
  } catch (error) {
    logger.error({ err: error }, "the token's signatures can't be compared; it is tried again");
  }
}

async function round(context: ReconcileContext & IssuingContext, logger: Logger): Promise<void> {
  try {
    const { intents, alarms } = await reconcile(context);
    for (const device of intents.signed) logger.info({ device }, "an open intent was signed");
    for (const given of intents.abandoned) logger.warn(given, "an intent was given up");
    for (const open of intents.open) logger.error(open, "an intent can't be settled now");
    for (const act of alarms) logger.error({ act }, "alarm: unlogged certificate");
  } catch (error) {
    logger.error({ err: error }, "reconciliation failed; it is tried again");
  }
}
