import { defineConfig } from "vitest/config";

// Test processes inherit it; libuv reads it once. Enough threads for the sessions of two tokens, and for those that hang.
process.env["UV_THREADPOOL_SIZE"] ??= "24";

export default defineConfig({
  test: {
    include: ["**/*.test.ts"],
    exclude: ["**/node_modules/**", "**/.cache/**", "**/.countersign/**", "test/faults/**", "test/peers/**"],
    globalSetup: ["test/support/global-setup.ts"],
    // A process per file: a PKCS#11 module is initialised once per process, with that process's own token store.
    pool: "forks",
    isolate: true,
    maxWorkers: 2,
    // Both end what hangs, and judge no speed: a machine that others keep busy is no failure.
    testTimeout: 120_000,
    hookTimeout: 180_000,
    expect: { poll: { timeout: 20_000 } },
    teardownTimeout: 60_000,
    allowOnly: !process.env["CI"],
  },
});
