import { execFile } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { promisify } from "node:util";
import { Child, waitUntilReady } from "../apps/site/stack/child.ts";
import { CACHE_DIR, which } from "../apps/site/stack/machine.ts";
import { freePort } from "../apps/site/stack/ports.ts";
import { CountersignError } from "../lib/domain/errors.ts";

export interface MosquittoProgram {
  readonly path: string;
  /** where its libraries are, when it isn't installed */
  readonly libraries?: string;
}

/** It, and what it needs beyond a small Debian. */
const PACKAGES = ["mosquitto", "libmosquitto1", "libcjson1", "libdlt2", "libwrap0", "libcap2"];
const APT_MS = 120_000;

/**
 * The installed mosquitto, or Debian's package unpacked into the cache: installing it would start a broker on this
 * machine.
 * @throws CountersignError `component-missing`
 */
export async function findMosquitto(onStep: (what: string) => void): Promise<MosquittoProgram> {
  const installed = which("mosquitto");
  if (installed !== undefined) return { path: installed };
  const folder = join(CACHE_DIR, "peers", "mosquitto");
  if (!existsSync(folder)) await unpack(folder, onStep);
  const lib = join(folder, "usr", "lib");
  const multiarch = (base: string): string[] => {
    const names = existsSync(base) ? readdirSync(base) : [];
    return names.filter((name) => name.endsWith("-linux-gnu")).map((name) => join(base, name));
  };
  const libraries = [...multiarch(lib), ...multiarch(join(folder, "lib"))].join(":");
  return { path: join(folder, "usr", "sbin", "mosquitto"), libraries };
}

async function unpack(folder: string, onStep: (what: string) => void): Promise<void> {
  const otherwise = "install mosquitto 2, or say --against none";
  if (which("apt-get") === undefined || which("dpkg-deb") === undefined) {
    throw new CountersignError("component-missing", `mosquitto isn't on this machine: ${otherwise}`);
  }
  onStep("unpacking Debian's mosquitto (once)");
  mkdirSync(join(CACHE_DIR, "peers"), { recursive: true });
  const work = mkdtempSync(`${folder}-`);
  try {
    // apt-get checks the packages against the archive's signed lists.
    await promisify(execFile)("apt-get", ["download", "-q", ...PACKAGES], { cwd: work, timeout: APT_MS });
    const whole = join(work, "whole");
    for (const name of readdirSync(work).filter((one) => one.endsWith(".deb"))) {
      await promisify(execFile)("dpkg-deb", ["-x", join(work, name), whole], { timeout: APT_MS });
    }
    renameSync(whole, folder);
  } catch (cause) {
    throw new CountersignError("component-missing", `Debian's mosquitto can't be had: ${otherwise}`, { cause });
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

export interface Mosquitto {
  readonly address: string;
  readonly pid: number;
  stop(): Promise<unknown>;
}

/**
 * Mosquitto as one would run it for such devices: mutual TLS against the devices' root, the certificate's CN as the user
 * name, nothing on disk (its default).
 * @param pki folder with root.pem, server.pem and server.key
 */
export async function startMosquitto(program: MosquittoProgram, dir: string, pki: string): Promise<Mosquitto> {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const port = await freePort();
  const account = process.getuid?.() === 0 ? "root" : (process.env["USER"] ?? "mosquitto");
  const config = join(dir, "mosquitto.conf");
  const lines = [
    `listener ${port} 127.0.0.1`,
    `cafile ${join(pki, "root.pem")}`,
    `certfile ${join(pki, "server.pem")}`,
    `keyfile ${join(pki, "server.key")}`,
    "require_certificate true",
    "use_identity_as_username true",
    "set_tcp_nodelay true",
    `user ${account}`,
    "log_dest stderr",
    "log_type error",
    "log_type warning",
  ];
  writeFileSync(config, `${lines.join("\n")}\n`, { mode: 0o600 });
  const { path, libraries } = program;
  const child = await Child.start({
    name: "mosquitto",
    command: path,
    args: ["-c", config],
    logFile: join(dir, "mosquitto.log"),
    env: { PATH: process.env["PATH"], ...(libraries === undefined ? {} : { LD_LIBRARY_PATH: libraries }) },
  });
  await waitUntilReady(child, () => accepts(port), 10_000).catch(async (error: unknown) => {
    await child.stop();
    throw error;
  });
  return { address: `127.0.0.1:${port}`, pid: child.pid, stop: () => child.stop() };
}

function accepts(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: "127.0.0.1" });
    socket.once("connect", () => (socket.destroy(), resolve(true)));
    socket.once("error", () => resolve(false));
  });
}
