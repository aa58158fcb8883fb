#!/usr/bin/env node
// Makes a fresh machine ready for `npm start` and, with `--for test`, for `npm test`. Runs before anything is installed:
// the system's Node 20 or newer, no dependencies. A second run only looks.
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { installDependencies, linkLauncher } from "./setup/dependencies.mjs";
import { fetchFirmware, hasFirmware } from "./setup/firmware.mjs";
import { lookAround, missingPackages } from "./setup/machine.mjs";
import { installPackages } from "./setup/packages.mjs";
import { prepareTestTools } from "./setup/test-tools.mjs";
import { CACHE, SetupError, say } from "./setup/run.mjs";
import { fetchTemporal, findTemporal } from "./setup/temporal.mjs";
import { fetchTestImages } from "./setup/test-images.mjs";

const USAGE = "usage: node deploy/setup.mjs [--for start|test]";

function purposeOf(args) {
  if (args.length === 0) return "start";
  if (args.length === 2 && args[0] === "--for" && ["start", "test"].includes(args[1])) return args[1];
  throw new SetupError(USAGE, 2);
}

function writeMachine(machine) {
  mkdirSync(CACHE, { recursive: true });
  const file = join(CACHE, "machine.json");
  const text = `${JSON.stringify(machine, null, 2)}\n`;
  let before = "";
  try {
    before = readFileSync(file, "utf8");
  } catch {
    // The first run.
  }
  if (text === before) return;
  writeFileSync(`${file}.${process.pid}`, text);
  renameSync(`${file}.${process.pid}`, file);
}

function main() {
  const purpose = purposeOf(process.argv.slice(2));
  const temporalBefore = findTemporal();
  // Packages first: the compiler and Python serve the steps below.
  const missing = missingPackages(purpose, { temporal: temporalBefore !== null, firmware: hasFirmware() });
  installPackages(missing);
  installDependencies();
  linkLauncher();
  const temporal = temporalBefore ?? fetchTemporal();
  const firmware = fetchFirmware();
  if (purpose === "test") {
    prepareTestTools();
    fetchTestImages();
  }
  writeMachine({ temporal, ...lookAround(), firmware: [firmware] });
}

try {
  main();
} catch (error) {
  // A file system that says no (another user's clone, a full disk) is the user's to mend: no stack trace.
  const theirs = error instanceof SetupError || typeof error.syscall === "string";
  if (!theirs) throw error;
  say(error.message);
  process.exitCode = error.exitCode ?? 3;
}
