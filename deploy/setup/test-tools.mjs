// The outside tools that judge our firmware images and certificates in tests, in .cache/python.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { CACHE, ROOT, run, say, SetupError, sha256OfFile } from "./run.mjs";
import { venv } from "./python.mjs";

const REQUIREMENTS = join(ROOT, "deploy", "requirements-test.txt");
const STAMP = join(CACHE, "python", "installed.sha256");

/** @throws SetupError (exit 3) */
export function prepareTestTools() {
  const python = venv();
  const wanted = sha256OfFile(REQUIREMENTS);
  if (installed() === wanted) return;
  say(
    "installing the tests' judges into .cache/python (PyPI esp-secure-cert-tool, intelhex, bincopy, uf2utils, imgtool, pyelftools, pkilint, azure-iot-device)",
  );
  if (
    !run(python, ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--use-pep517", "-r", REQUIREMENTS])
  ) {
    throw new SetupError("pip could not install deploy/requirements-test.txt; see its messages above");
  }
  writeFileSync(STAMP, `${wanted}\n`);
}

function installed() {
  try {
    return readFileSync(STAMP, "utf8").trim();
  } catch {
    return null;
  }
}
