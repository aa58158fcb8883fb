import { spawnSync } from "node:child_process";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { PROJECT_ROOT, tempDir } from "../support/index.ts";

const PLANTED: Record<string, [source: string, rule: string]> = {
  "services/a.ts": ["async function act() {}\nexport function run() {\n  act();\n}\n", "no-floating-promises"],
  "services/b.ts": [
    "export const all = [1].forEach(async (x) => {\n  await fetch(String(x));\n});\n",
    "no-misused-promises",
  ],
  "services/c.ts": ["export function run(x: any): unknown {\n  return x;\n}\n", "no-explicit-any"],
  "services/d.ts": ['export function run() {\n  throw "text";\n}\n', "only-throw-error"],
  // The import rule's checker can't see these, so the linter must.
  "lib/pki/e.ts": ['export type X = import("../../services/c.ts").Planted;\n', "consistent-type-imports"],
  "services/f.ts": ['export const key = JSON.parse("{}").key;\n', "no-unsafe-"],
};

describe("the linter", () => {
  it("catches each planted fault, type-aware ones included", () => {
    const house = tempDir("lint");
    for (const shared of ["node_modules", ".oxlintrc.json", "tsconfig.json"]) {
      symlinkSync(join(PROJECT_ROOT, shared), join(house, shared));
    }
    for (const [path, [source]] of Object.entries(PLANTED)) {
      mkdirSync(dirname(join(house, path)), { recursive: true });
      writeFileSync(join(house, path), source);
    }
    const oxlint = join(PROJECT_ROOT, "node_modules", ".bin", "oxlint");
    const { status, stdout } = spawnSync(oxlint, ["--type-aware", "-f", "unix"], { cwd: house, encoding: "utf8" });
    expect(status).toBe(1);
    for (const [path, [, rule]] of Object.entries(PLANTED)) {
      expect(
        stdout
          .split("\n")
          .filter((line) => line.startsWith(path))
          .join("\n"),
        path,
      ).toContain(rule);
    }
  });
});
