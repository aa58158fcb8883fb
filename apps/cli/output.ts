import { CountersignError, errorCodeOf, exitCodeOf } from "../../lib/domain/errors.ts";

/** Everything a command says: results on stdout, progress and errors on stderr, colours on a terminal only. */

const colour = process.stderr.isTTY && process.env["NO_COLOR"] === undefined;

export function paint(style: "bold" | "dim" | "red" | "green" | "yellow", text: string): string {
  if (!colour) return text;
  const code = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33 }[style];
  return `\u001b[${code}m${text}\u001b[0m`;
}

export function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

export function printJson(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}

/** A line for the person at the terminal; never part of a command's result. */
export function note(line: string): void {
  process.stderr.write(`${line}\n`);
}

/** Reports a failure as one clear line (and as JSON on stdout under --json) and gives the exit code. */
export function reportError(error: unknown, json: boolean): number {
  const code = errorCodeOf(error);
  const message = error instanceof Error ? error.message : String(error);
  if (json)
    printJson({ error: { code, message, ...(error instanceof CountersignError ? { details: error.details } : {}) } });
  note(`${paint("red", "countersign:")} ${message.replaceAll("\n", " ")} [${code}]`);
  if (code === "internal" && error instanceof Error && process.env["COUNTERSIGN_DEBUG"]) note(error.stack ?? "");
  return exitCodeOf(error);
}

/** Columns padded to their widest cell. */
export function table(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows) row.forEach((cell, i) => (widths[i] = Math.max(widths[i] ?? 0, cell.length)));
  return rows
    .map((row) =>
      row
        .map((cell, i) => cell.padEnd(widths[i] ?? 0))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}
