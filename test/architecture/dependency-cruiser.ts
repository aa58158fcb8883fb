import type { IFlattenedRuleSet, ICruiseOptions } from "dependency-cruiser";
import { MAY_IMPORT, ONE_IMPORTER, WITHOUT_NODE } from "./rooms.ts";

const TEST_FILES = "(^test/|\\.test\\.ts$|(^|/)vitest\\.config\\.ts$)";
const severity = "error" as const;
const inside = (room: string) => `^${room}/`;

/** The import rule as dependency-cruiser reads it. */
export const RULES: IFlattenedRuleSet = {
  forbidden: [
    ...Object.entries(ONE_IMPORTER).map(([npm, room]) => ({
      name: `only-${room}-imports-${npm}`,
      severity,
      from: { path: ".", pathNot: [inside(room), TEST_FILES] },
      to: { path: `(^|/)node_modules/(@types/)?${npm}/` },
    })),
    {
      name: "no-node-modules-here",
      severity,
      from: { path: WITHOUT_NODE.map(inside), pathNot: TEST_FILES },
      to: { dependencyTypes: ["core"] },
    },
    {
      name: "no-dev-dependency-in-the-program",
      severity,
      from: { pathNot: [TEST_FILES, inside("bench")] },
      to: { dependencyTypes: ["npm-dev"], dependencyTypesNot: ["type-only"], pathNot: "node_modules/@types/" },
    },
    {
      name: "no-undeclared-package",
      severity,
      from: { pathNot: TEST_FILES },
      to: { dependencyTypes: ["npm-no-pkg", "npm-unknown"] },
    },
    { name: "no-unresolvable", severity, from: {}, to: { couldNotResolve: true } },
  ],
  allowed: [
    { from: { path: TEST_FILES }, to: {} },
    // npm and Node: the rules above.
    { from: {}, to: { path: "node_modules/" } },
    { from: {}, to: { dependencyTypes: ["core"] } },
    { from: {}, to: { couldNotResolve: true } },
    ...Object.entries(MAY_IMPORT).map(([room, others]) => ({
      from: { path: inside(room) },
      to: { path: [room, ...others].map(inside), pathNot: TEST_FILES },
    })),
  ],
  allowedSeverity: severity,
};

export const OPTIONS: ICruiseOptions = {
  parser: "swc",
  // Type-only imports are imports: a room must not know another's shapes either. What swc doesn't see, import("...")
  // as a type, the linter forbids (typescript/consistent-type-imports).
  tsPreCompilationDeps: true,
  doNotFollow: { path: "node_modules" },
  exclude: { path: "^(\\.cache|\\.countersign|dist)/" },
  enhancedResolveOptions: {
    exportsFields: ["exports"],
    conditionNames: ["import", "node", "default", "types"],
    extensions: [".ts", ".mjs", ".js", ".json"],
  },
};
