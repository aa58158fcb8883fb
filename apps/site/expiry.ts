import { alertOf, expiring } from "../../services/parties/expiring.ts";
import type { Identity } from "../../services/parties/identity.ts";
import type { Db } from "../../store/db.ts";
import type { Logger } from "../http/logger.ts";

const LOOK_MS = 3_600_000;

/**
 * Tells the log 30, 14 and 7 days before something ends that signing rests on, and when it has ended: once each, and
 * again after a restart. The site's own CRL is renewed by itself when half its time is over, so it shows only if it isn't.
 * @returns the way to stop
 */
export function watchExpiry(
  db: Db,
  identity: Identity,
  logger: Logger,
  now: () => Date = () => new Date(),
): () => Promise<void> {
  const told = new Set<string>();
  let running: Promise<void> = Promise.resolve();
  const look = (): void => {
    running = (async () => {
      for (const one of await expiring(db, identity)) {
        const alert = alertOf(one, now());
        const key = `${one.what}/${one.subject}/${one.notAfter}/${alert}`;
        if (alert === undefined || told.has(key)) continue;
        told.add(key);
        const level = alert <= 7 ? "error" : "warn";
        logger[level]({ ...one, days: alert }, alert === 0 ? "has expired" : "expires soon");
      }
    })().catch((error: unknown) => logger.error({ err: error }, "what expires can't be looked up"));
  };
  look();
  const timer = setInterval(look, LOOK_MS);
  return () => {
    clearInterval(timer);
    return running;
  };
}
