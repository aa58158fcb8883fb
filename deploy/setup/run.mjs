// What the set-up steps share.
import { spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { accessSync, constants, readFileSync, statSync } from "node:fs";
import { delimiter, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

export const ROOT = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
export const CACHE = join(ROOT, ".cache");
export const MODULES = join(ROOT, "node_modules");

/** Ends set-up with one clear line. Exit code 3: a component is missing; 2: misuse. */
export class SetupError extends Error {
  constructor(message, exitCode = 3) {
    super(message);
    this.exitCode = exitCode;
  }
}

/** On stderr: a script's stdout stays its own. */
export function say(line) {
  process.stderr.write(`set-up: ${line}\n`);
}

/** The project's own node_modules/.bin may be what a step is about to replace: steps run with the system's PATH. */
export function systemPath() {
  const own = join(MODULES, ".bin");
  return (process.env.PATH ?? "")
    .split(delimiter)
    .filter((folder) => resolve(folder) !== own)
    .join(delimiter);
}

/** The program's absolute path, or null. Also looks where administrators' programs live. */
export function which(program) {
  for (const folder of [...systemPath().split(delimiter), "/usr/sbin", "/sbin"]) {
    if (folder === "") continue;
    const file = join(folder, program);
    try {
      accessSync(file, constants.X_OK);
      if (statSync(file).isFile()) return file;
    } catch {
      // Not in this folder.
    }
  }
  return null;
}

/** Runs a program whose output the user should see (on stderr). True when it exits with 0. */
export function run(command, args, { env = {}, cwd = ROOT, timeout } = {}) {
  const result = spawnSync(command, args, {
    cwd,
    timeout,
    env: { ...process.env, PATH: systemPath(), ...env },
    stdio: ["ignore", process.stderr.fd, process.stderr.fd],
  });
  return result.status === 0;
}

/** Runs a program for its answer: stdout when it exits with 0, else null. */
export function ask(command, args, { env = {}, cwd = ROOT } = {}) {
  const result = spawnSync(command, args, {
    cwd,
    env: { ...process.env, PATH: systemPath(), ...env },
    encoding: "utf8",
    stdio: ["ignore", "pipe", "ignore"],
  });
  return result.status === 0 ? result.stdout.trim() : null;
}

/** Lower-case hex, or null when the file can't be read. */
export function sha256OfFile(path) {
  try {
    return createHash("sha256").update(readFileSync(path)).digest("hex");
  } catch {
    return null;
  }
}

export function exists(path) {
  return statSync(path, { throwIfNoEntry: false }) !== undefined;
}

export function firstExisting(paths) {
  return paths.find(exists) ?? null;
}
