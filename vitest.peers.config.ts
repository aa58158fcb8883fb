import { defineConfig, mergeConfig } from "vitest/config";
import base from "./vitest.config.ts";

/** Tests that build other people's tools: `npm run test:peers`. They need the network and those tools' toolchains. */
const { test, ...rest } = base;
export default mergeConfig(
  { ...rest, test: { ...test, include: [], exclude: [] } },
  defineConfig({
    test: { include: ["test/peers/**/*.test.ts"], exclude: ["**/node_modules/**"], testTimeout: 120_000 },
  }),
);
