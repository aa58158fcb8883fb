import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { PROJECT_ROOT } from "./index.ts";

const PYTHON = join(PROJECT_ROOT, ".cache", "python", "bin", "python");

/**
 * Runs a judge of test/support/judges once over many items: one line of JSON in, one out, for each.
 * The set-up of the tests installs what they import (deploy/requirements-test.txt).
 */
export function pythonJudge<Item, Answer>(
  script: "lint.py" | "paths.py" | "passport.py",
  items: readonly Item[],
): Answer[] {
  if (items.length === 0) return [];
  if (!existsSync(PYTHON)) throw new Error(`${PYTHON} is missing: run node deploy/setup.mjs --for test`);
  const run = spawnSync(PYTHON, [join(import.meta.dirname, "judges", script)], {
    input: items.map((item) => `${JSON.stringify(item)}\n`).join(""),
    encoding: "utf8",
    maxBuffer: 256 * 1024 * 1024,
    timeout: 500_000,
  });
  if (run.status !== 0) throw new Error(`${script} failed: ${run.stderr.slice(-2000)}`);
  const answers = run.stdout
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Answer);
  if (answers.length !== items.length) throw new Error(`${script} gave ${answers.length} answers to ${items.length}`);
  return answers;
}
