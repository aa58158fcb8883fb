#!/usr/bin/env node
// The launcher: on an older Node it hands over to the Node 24 that npm installed. Plain JavaScript for that reason.
import { spawn } from "node:child_process";
import { existsSync, realpathSync } from "node:fs";
import { constants } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const here = dirname(realpathSync(fileURLToPath(import.meta.url)));
const main = join(here, "main.ts");

if (Number(process.versions.node.split(".")[0]) >= 24) {
  process.argv[1] = main;
  await import(pathToFileURL(main).href);
} else {
  const node = join(here, "..", "..", "node_modules", ".bin", "node");
  if (!existsSync(node)) {
    console.error(`countersign needs Node 24, and ${node} is missing: run npm install (or node deploy/setup.mjs)`);
    process.exit(3);
  }
  const child = spawn(node, [main, ...process.argv.slice(2)], { stdio: "inherit" });
  // Whoever signals us means the child. Ctrl-C at a terminal reaches the child without us: twice would be impatience.
  for (const signal of ["SIGTERM", "SIGHUP"]) process.on(signal, () => child.kill(signal));
  for (const signal of ["SIGINT", "SIGQUIT"]) process.on(signal, () => process.stdin.isTTY || child.kill(signal));
  child.on("error", (error) => {
    console.error(`countersign can't run ${node}: ${error.message}`);
    process.exit(3);
  });
  child.on("exit", (code, signal) => process.exit(code ?? 128 + (constants.signals[signal] ?? 0)));
}
