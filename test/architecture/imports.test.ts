import { cpSync, existsSync, mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { cruise, type ICruiseResult } from "dependency-cruiser";
import { describe, expect, it } from "vitest";
import { PROJECT_ROOT, tempDir } from "../support/index.ts";
import { OPTIONS, RULES } from "./dependency-cruiser.ts";

const FOLDERS = ["apps", "workflows", "activities", "services", "contracts", "hsm", "store", "lib", "bench"];

interface Violation {
  readonly rule: string;
  readonly from: string;
  readonly to: string;
}

async function violations(baseDir: string): Promise<Violation[]> {
  const present = FOLDERS.filter((folder) => existsSync(join(baseDir, folder)));
  const { output } = await cruise(present, { ...OPTIONS, baseDir, validate: true, ruleSet: RULES });
  return (output as ICruiseResult).summary.violations.map(({ rule, from, to }) => ({ rule: rule.name, from, to }));
}

/** The given files alone, in a folder of their own, with the packages of the real one: the rule on trial, not the tree. */
function planted(files: Record<string, string>): string {
  const house = tempDir("house");
  cpSync(join(PROJECT_ROOT, "package.json"), join(house, "package.json"));
  symlinkSync(join(PROJECT_ROOT, "node_modules"), join(house, "node_modules"));
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(house, path)), { recursive: true });
    writeFileSync(join(house, path), text);
  }
  return house;
}

/**
 * The rooms and, below, their table: written out here a second time and on purpose. `rooms.ts` is what the checker runs
 * with, so it is what is on trial; a test that took its expectation from there would call every change of it right.
 */
const ROOMS: Record<string, string> = {
  "apps/cli": "apps/cli/planted-target.ts",
  "apps/console": "apps/console/planted-target.ts",
  "apps/site": "apps/site/planted-target.ts",
  "apps/gateway": "apps/gateway/planted-target.ts",
  "apps/hub": "apps/hub/planted-target.ts",
  "apps/http": "apps/http/planted-target.ts",
  "apps/device": "apps/device/planted-target.ts",
  workflows: "workflows/planted-target.ts",
  activities: "activities/planted-target.ts",
  services: "services/planted-target.ts",
  contracts: "contracts/planted-target.ts",
  hsm: "hsm/planted-target.ts",
  store: "store/planted-target.ts",
  "lib/domain": "lib/domain/planted-target.ts",
  "lib/pki": "lib/pki/planted-target.ts",
  "lib/records": "lib/records/planted-target.ts",
  "lib/attestation": "lib/attestation/planted-target.ts",
  "lib/ledger": "lib/ledger/planted-target.ts",
  "lib/firmware": "lib/firmware/planted-target.ts",
};
const ALL = Object.keys(ROOMS);
const LIB = ALL.filter((room) => room.startsWith("lib/"));

/** As the design has it. A change of the rule is made in both places, by somebody who means it. */
const TABLE: Record<string, readonly string[]> = {
  "apps/cli": [...LIB, "apps/device", "apps/site"],
  "apps/console": LIB,
  "apps/site": ALL.filter((room) => !["apps/cli", "apps/console"].includes(room)),
  "apps/gateway": ["apps/http", "services", "contracts", "store", ...LIB],
  "apps/hub": ["apps/http", "services", "contracts", "store", ...LIB],
  "apps/http": LIB,
  "apps/device": ["hsm", ...LIB],
  workflows: ["contracts", "lib/records", "lib/domain"],
  activities: ["contracts", "services", "store", "hsm", ...LIB],
  services: ["store", "hsm", ...LIB],
  store: LIB,
  contracts: LIB,
  hsm: LIB,
  "lib/firmware": ["lib/pki", "lib/records", "lib/domain"],
  "lib/ledger": ["lib/attestation", "lib/pki", "lib/records", "lib/domain"],
  "lib/attestation": ["lib/pki", "lib/records", "lib/domain"],
  "lib/pki": ["lib/domain"],
  "lib/records": ["lib/domain"],
  "lib/domain": [],
};

const up = (from: string) => "../".repeat(from.split("/").length - 1);
const slug = (room: string) => room.replaceAll("/", "-");

describe("the import rule", () => {
  it("holds in this tree", async () => {
    expect(await violations(PROJECT_ROOT)).toEqual([]);
  }, 120_000);

  it("allows exactly the table, pair by pair", async () => {
    const files: Record<string, string> = {};
    for (const target of Object.values(ROOMS))
      files[target] = "export const planted = 1;\nexport type Planted = number;\n";
    for (const from of ALL) {
      for (const to of ALL) {
        const file = `${from}/planted-to-${slug(to)}.ts`;
        files[file] = `import { planted } from "${up(file)}${ROOMS[to]}";\nexport const use = planted;\n`;
      }
    }
    const found = (await violations(planted(files))).filter(({ from }) => from.includes("/planted-to-"));
    const refused = new Set(found.map(({ from, rule }) => `${from} ${rule}`));
    for (const from of ALL) {
      for (const to of ALL) {
        const allowed = from === to || TABLE[from]?.includes(to) === true;
        const key = `${from}/planted-to-${slug(to)}.ts not-in-allowed`;
        expect(refused.has(key), `${from} -> ${to}`).toBe(!allowed);
      }
    }
  }, 120_000);

  it("sees every way to import, and the packages and Node modules that a room must not have", async () => {
    const target = { "services/planted-target.ts": "export type Planted = number;\nexport const planted = 1;\n" };
    const cases: [file: string, source: string, rule: string][] = [
      // Every form of import, from a room that may not.
      [
        "lib/pki/p1.ts",
        'import type { Planted } from "../../services/planted-target.ts";\nexport type X = Planted;',
        "not-in-allowed",
      ],
      [
        "lib/pki/p2.ts",
        'import { type Planted } from "../../services/planted-target.ts";\nexport type X = Planted;',
        "not-in-allowed",
      ],
      ["lib/pki/p3.ts", 'export type { Planted } from "../../services/planted-target.ts";', "not-in-allowed"],
      ["lib/pki/p4.ts", 'export * from "../../services/planted-target.ts";', "not-in-allowed"],
      ["lib/pki/p5.ts", 'export const x = await import("../../services/planted-target.ts");', "not-in-allowed"],
      ["lib/pki/p7.ts", 'import "../../services/planted-target.ts";', "not-in-allowed"],
      ["lib/pki/p8.ts", "export const x = await import(`../../services/planted-target.ts`);", "not-in-allowed"],
      // A folder that the table doesn't know.
      [
        "lib/utils/p1.ts",
        'import { planted } from "../../services/planted-target.ts";\nexport const x = planted;',
        "not-in-allowed",
      ],
      ["services/p1.ts", 'import { x } from "../lib/utils/target.ts";\nexport const y = x;', "not-in-allowed"],
      // The program must not import tests.
      ["services/p2.ts", 'export * from "../hsm/planted.test.ts";', "not-in-allowed"],
      // Packages with one importer.
      ["services/p3.ts", 'import pg from "pg";\nexport const x = pg;', "only-store-imports-pg"],
      ["services/p4.ts", 'import type { Pool } from "pg";\nexport type X = Pool;', "only-store-imports-pg"],
      ["store/p5.ts", 'import pkcs11 from "pkcs11js";\nexport const x = pkcs11;', "only-hsm-imports-pkcs11js"],
      [
        "apps/device/p6.ts",
        'import type { Module } from "graphene-pk11";\nexport type X = Module;',
        "only-hsm-imports-graphene-pk11",
      ],
      // No Node modules, with or without the prefix, types included.
      [
        "lib/ledger/n1.ts",
        'import { createHash } from "node:crypto";\nexport const x = createHash;',
        "no-node-modules-here",
      ],
      [
        "lib/domain/n2.ts",
        'import { readFileSync } from "fs";\nexport const x = readFileSync;',
        "no-node-modules-here",
      ],
      [
        "workflows/n3.ts",
        'import type { Buffer } from "node:buffer";\nexport type X = Buffer;',
        "no-node-modules-here",
      ],
      ["contracts/n4.ts", 'export { setTimeout } from "node:timers/promises";', "no-node-modules-here"],
      // What a production install lacks.
      ["services/d1.ts", 'import fc from "fast-check";\nexport const x = fc;', "no-dev-dependency-in-the-program"],
      ["services/d2.ts", 'import long from "@grpc/grpc-js";\nexport const x = long;', "no-undeclared-package"],
      ["services/d3.ts", 'import { x } from "./nowhere.ts";\nexport const y = x;', "no-unresolvable"],
    ];
    const files = Object.fromEntries(cases.map(([file, source]) => [file, `${source}\n`]));
    const helpers = {
      "lib/utils/target.ts": "export const x = 1;\n",
      "hsm/planted.test.ts": 'import pg from "pg";\nexport const planted = pg;\n',
    };
    const found = await violations(planted({ ...target, ...helpers, ...files }));
    const caught = new Set(found.map(({ from, rule }) => `${from}: ${rule}`));
    const missed = cases.map(([file, , rule]) => `${file}: ${rule}`).filter((line) => !caught.has(line));
    expect(missed).toEqual([]);
    // Test files may import anything.
    expect(found.filter(({ from }) => from.endsWith(".test.ts"))).toEqual([]);
  }, 120_000);
});
