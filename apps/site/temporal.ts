import { Client, Connection } from "@temporalio/client";
import { DefaultLogger, NativeConnection, Runtime, Worker } from "@temporalio/worker";
import { CountersignError } from "../../lib/domain/errors.ts";
import type { Logger } from "../http/logger.ts";
import { workflowBundle } from "./workflow-bundle.ts";

const CONNECT_MS = 30_000;

/** Temporal as one process of a site uses it: a client and one worker on one queue of the site's own namespace. */
export interface TemporalSide {
  readonly client: Client;
  readonly connection: Connection;
  /** Lets activities under way finish, within the grace time, and disconnects. */
  stop(): Promise<void>;
}

let installed = false;

/** Signals are ours to handle; what the SDK has to say goes into our log. Once a process. */
function installRuntime(logger: Logger): void {
  if (installed) return;
  installed = true;
  const levels = { TRACE: "trace", DEBUG: "debug", INFO: "info", WARN: "warn", ERROR: "error" } as const;
  Runtime.install({
    shutdownSignals: [],
    logger: new DefaultLogger("WARN", ({ level, message, meta }) => {
      // Its metadata names workflows and activities; failures' words are ours and hold no secrets.
      const { workflowId, activityType, error } = (meta ?? {}) as Record<string, unknown>;
      logger[levels[level]]({ workflowId, activityType, err: error }, message);
    }),
    telemetryOptions: { logging: { forward: {}, filter: "ERROR" } },
  });
}

export async function startTemporalSide(
  options: {
    address: string;
    namespace: string;
    taskQueue: string;
    /** false: this process runs activities only */
    workflows?: boolean;
    activities: object;
    logger: Logger;
  },
  /** Called when the worker ends by itself: nothing is worked on from then on. */
  onFailure: (error: unknown) => void,
): Promise<TemporalSide> {
  const { address, namespace } = options;
  installRuntime(options.logger);
  const bundle = options.workflows === false ? undefined : workflowBundle();
  bundle?.catch(() => undefined);
  const connection = await connected(address, () => Connection.connect({ address, connectTimeout: 3_000 }));
  const native = await connected(address, () => NativeConnection.connect({ address }));
  const worker = await Worker.create({
    connection: native,
    namespace,
    taskQueue: options.taskQueue,
    ...(bundle === undefined ? {} : { workflowBundle: { codePath: await bundle } }),
    activities: options.activities,
    stickyQueueScheduleToStartTimeout: "2 seconds",
    maxConcurrentActivityTaskExecutions: 32,
    shutdownGraceTime: "5 seconds",
    shutdownForceTime: "8 seconds",
  });
  let stopping = false;
  const running = worker.run().catch((error: unknown) => {
    if (!stopping) onFailure(error);
  });
  return {
    client: new Client({ connection, namespace }),
    connection,
    async stop() {
      stopping = true;
      if (worker.getState() === "RUNNING") worker.shutdown();
      await running;
      await native.close().catch(() => undefined);
      await connection.close();
    },
  };
}

/** Temporal may still be starting. @throws CountersignError `component-unreachable` */
async function connected<T>(address: string, connect: () => Promise<T>): Promise<T> {
  const deadline = Date.now() + CONNECT_MS;
  for (;;) {
    try {
      return await connect();
    } catch (cause) {
      if (Date.now() > deadline) {
        throw new CountersignError("component-unreachable", `Temporal at ${address} doesn't answer`, { cause });
      }
      await new Promise((wake) => setTimeout(wake, 250));
    }
  }
}
