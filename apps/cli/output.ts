import { stripVTControlCharacters } from "node:util";
import { CountersignError, errorCodeOf, exitCodeOf } from "../../lib/domain/errors.ts";
import { asCountersignError } from "./failure.ts";

/** Everything a command says: results on stdout, progress and errors on stderr, colours on a terminal only. */

const wanted = process.env["NO_COLOR"] === undefined;

/** {@link print} and {@link note} take the colour out again where they don't write to a terminal. */
export function paint(style: "bold" | "dim" | "red" | "green" | "yellow", text: string): string {
  if (!wanted) return text;
  const code = { bold: 1, dim: 2, red: 31, green: 32, yellow: 33 }[style];
  return `\u001b[${code}m${text}\u001b[0m`;
}

export function print(line: string): void {
  process.stdout.write(`${process.stdout.isTTY ? line : stripVTControlCharacters(line)}\n`);
}

let answered = false;

/** A command's whole answer under `--json`: one document on stdout. */
export function printJson(value: unknown): void {
  answered = true;
  process.stdout.write(`${JSON.stringify(value, null, 2)}\n`);
}

/** A line for the person at the terminal; never part of a command's result. */
export function note(line: string): void {
  process.stderr.write(`${process.stderr.isTTY ? line : stripVTControlCharacters(line)}\n`);
}

/**
 * Reports a failure as one clear line, and under `--json` as JSON on stdout, unless the command has answered there
 * already: two documents are none that a script can parse.
 * @returns the exit code
 */
export function reportError(thrown: unknown, json: boolean): number {
  const error = asCountersignError(thrown);
  const code = errorCodeOf(error);
  const message = error instanceof Error ? error.message : String(error);
  if (json && !answered)
    printJson({ error: { code, message, ...(error instanceof CountersignError ? { details: error.details } : {}) } });
  note(`${paint("red", "countersign:")} ${quoted(message)} [${code}]`);
  if (code === "internal" && error instanceof Error && process.env["COUNTERSIGN_DEBUG"]) note(error.stack ?? "");
  return exitCodeOf(error);
}

// oxlint-disable-next-line no-control-regex -- they are what is looked for
const CONTROLS = /[\u0000-\u001f\u007f-\u009f]+/g;

/** What a hostile file or peer is quoted with must not steer the terminal. */
export function quoted(text: string): string {
  return text.replace(CONTROLS, " ");
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
