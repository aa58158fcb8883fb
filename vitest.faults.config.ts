import { defineConfig, mergeConfig } from "vitest/config";
import base from "./vitest.config.ts";

/** The fault suite in full: `npm run test:faults`. Bounded: a fixed number of kills, half an hour at most. */
const { test, ...rest } = base;
export default mergeConfig(
  { ...rest, test: { ...test, include: [], exclude: [] } },
  defineConfig({
    test: { include: ["test/faults/**/*.test.ts"], exclude: ["**/node_modules/**"], maxWorkers: 1 },
  }),
);
