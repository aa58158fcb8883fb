import { parseArgs } from "node:util";
import { CountersignError, exitCodeOf } from "../../lib/domain/errors.ts";
import { stopOnSignals } from "../http/process.ts";
import { createLogger } from "../http/logger.ts";
import { loadHubConfig } from "./config.ts";
import { startHub } from "./hub.ts";

/**
 * `main.ts --config hub.json [--stop-with-stdin]`. Stops on SIGTERM and when its parent goes: the IPC channel closing,
 * or with the flag the end of stdin. Tells a parent over IPC when it is ready: {ready: true, apiPort, mqttPort}.
 */
try {
  const { values } = parseArgs({
    options: { config: { type: "string" }, "stop-with-stdin": { type: "boolean", default: false } },
  });
  if (values.config === undefined) throw new CountersignError("usage", "start the hub with --config hub.json");
  const config = loadHubConfig(values.config);
  const logger = createLogger({ name: "hub", level: config.log });
  const hub = await startHub(config, logger);
  stopOnSignals(() => hub.stop(), { logger, stdin: values["stop-with-stdin"] });
  process.send?.({ ready: true, apiPort: hub.apiPort, mqttPort: hub.mqttPort });
} catch (error) {
  process.stderr.write(`hub: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exit(exitCodeOf(error));
}
