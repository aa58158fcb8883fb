// PyPI serves two things here: the Temporal CLI, and the official tools that judge our images in tests.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ask, CACHE, exists, run, SetupError, which } from "./run.mjs";

const VENV = join(CACHE, "python");
export const VENV_PYTHON = join(VENV, "bin", "python");

export function hasPip() {
  const python = which("python3");
  return python !== null && ask(python, ["-c", "import pip"]) !== null;
}

/** Debian's bare python3 has `venv` without `ensurepip`, which it can't do without. */
export function canMakeVenv() {
  if (exists(VENV_PYTHON)) return true;
  const python = which("python3");
  return python !== null && ask(python, ["-c", "import venv, ensurepip"]) !== null;
}

/** The project's own environment in .cache/python. @throws SetupError */
export function venv() {
  if (exists(VENV_PYTHON) && ask(VENV_PYTHON, ["-c", "import pip"]) !== null) return VENV_PYTHON;
  rmSync(VENV, { recursive: true, force: true });
  if (!run(which("python3") ?? "python3", ["-m", "venv", VENV])) {
    throw new SetupError("python3 -m venv failed; on Debian: apt-get install -y python3-venv");
  }
  return VENV_PYTHON;
}

/** Calls `work` with a folder that holds what `pip download` fetched. @throws SetupError when nothing came */
export function withDownload(pipArgs, work) {
  const python = hasPip() ? which("python3") : venv();
  const folder = mkdtempSync(join(tmpdir(), "countersign-setup-"));
  try {
    const args = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest", folder];
    if (!run(python, [...args, ...pipArgs])) throw new SetupError(`pip could not download ${pipArgs.at(-1)}`);
    return work(folder, python);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
