import { parseArgs } from "node:util";
import { CountersignError, exitCodeOf } from "../../lib/domain/errors.ts";
import { createLogger } from "../http/logger.ts";
import { stopOnSignals } from "../http/process.ts";
import { loadSiteConfig } from "./config.ts";
import { Site } from "./site.ts";

/**
 * One party's site: gateway, worker, sequencer, outbox.
 *
 *   node apps/site/main.ts --config .countersign/factory-y/site.json
 */
async function main(): Promise<void> {
  const { values } = parseArgs({ options: { config: { type: "string" } } });
  if (values.config === undefined) throw new CountersignError("usage", "usage: main.ts --config FILE");
  const config = loadSiteConfig(values.config);
  const logger = createLogger({ name: config.party, level: config.logLevel });
  const fail = (error: unknown): void => {
    logger.fatal({ err: error }, "a component ended by itself");
    process.exit(exitCodeOf(error));
  };
  const starting = Site.start(config, logger, fail);
  // Told to stop while it starts, it starts first: what is half there can't be ended in order.
  stopOnSignals(async () => (await starting).stop(), { logger });
  const site = await starting;
  logger.info({ url: config.gateway.url, publicPort: site.gateway.publicPort }, "ready");
}

try {
  await main();
} catch (error) {
  process.stderr.write(`countersign site: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exit(exitCodeOf(error));
}
