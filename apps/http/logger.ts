import { pino, type Logger } from "pino";

export type { Logger };

/** Names under which a secret could slip into a log line; their values are replaced wherever they stand near the top. */
const SECRET_NAMES = ["pin", "soPin", "password", "secret", "token", "key", "privateKey", "authorization", "cookie"];
const REDACTED = SECRET_NAMES.flatMap((name) => [name, `*.${name}`, `*.*.${name}`]);

export interface LoggerOptions {
  /** Which process speaks: `gateway`, `hub`, ... */
  name: string;
  level?: "trace" | "debug" | "info" | "warn" | "error" | "fatal" | "silent";
  /** File descriptor: 1 stdout (default) or 2 stderr, where stdout carries a command's answer. */
  fd?: 1 | 2;
}

/** One JSON object a line. Secrets are never passed to it in the first place; the redaction is the second lock. */
export function createLogger(options: LoggerOptions): Logger {
  return pino(
    {
      name: options.name,
      level: options.level ?? "info",
      base: { name: options.name, pid: process.pid },
      timestamp: pino.stdTimeFunctions.isoTime,
      redact: { paths: REDACTED, censor: "[redacted]" },
    },
    pino.destination({ fd: options.fd ?? 1, sync: true }),
  );
}
