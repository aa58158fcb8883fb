import type { Logger } from "./logger.ts";

/**
 * Runs a server's process until it is told to stop: SIGTERM, SIGINT, or its parent gone (the IPC channel closed, or
 * with `stdin` the pipe to it closed), so that no process outlives the stack that started it.
 * @param stop closes everything; a second signal or `graceMs` without an end exits at once
 */
export function stopOnSignals(
  stop: () => Promise<void>,
  options: { logger: Logger; stdin?: boolean; graceMs?: number },
): void {
  let stopping = false;
  const begin = (why: string): void => {
    if (stopping) return;
    stopping = true;
    options.logger.info({ why }, "stopping");
    setTimeout(() => process.exit(1), options.graceMs ?? 10_000).unref();
    stop().then(
      () => process.exit(0),
      (error: unknown) => {
        options.logger.error({ err: error }, "could not stop cleanly");
        process.exit(1);
      },
    );
  };
  process.on("SIGTERM", () => begin("SIGTERM"));
  process.on("SIGINT", () => begin("SIGINT"));
  if (process.send !== undefined) process.on("disconnect", () => begin("parent gone"));
  if (options.stdin === true) {
    process.stdin.on("end", () => begin("parent gone")).on("error", () => begin("parent gone"));
    process.stdin.resume();
  }
}
