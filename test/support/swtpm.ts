import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { pemDecode } from "../../lib/pki/pem.ts";
import { tempDir, tool } from "./index.ts";

/** A vendor of TPMs: swtpm's own CA, its root above it. */
export interface TpmVendor {
  readonly dir: string;
  /** DER, once it has made a TPM */
  root(): Uint8Array;
  issuer(): Uint8Array;
}

/** A software TPM 2 with certificates of its endorsement keys by its vendor. */
export interface SoftTpm {
  /** as tpm2-tools and `countersign device` name it */
  readonly tcti: string;
  readonly vendor: TpmVendor;
  stop(): Promise<void>;
}

export function tpmVendor(): TpmVendor {
  const dir = tempDir("tpm-vendor");
  const settings = {
    "localca.conf": [
      `statedir = ${dir}`,
      `signingkey = ${join(dir, "signkey.pem")}`,
      `issuercert = ${join(dir, "issuercert.pem")}`,
      `certserial = ${join(dir, "certserial")}`,
    ],
    "localca.options": ["--platform-manufacturer Example", "--platform-version 1.0", "--platform-model Board"],
    "setup.conf": [
      `create_certs_tool = ${tool("swtpm_localca")}`,
      `create_certs_tool_config = ${join(dir, "localca.conf")}`,
      `create_certs_tool_options = ${join(dir, "localca.options")}`,
    ],
  };
  for (const [name, lines] of Object.entries(settings)) writeFileSync(join(dir, name), `${lines.join("\n")}\n`);
  const certificate = (name: string) => pemDecode(readFileSync(join(dir, name), "utf8"), "CERTIFICATE")[0]!;
  return {
    dir,
    root: () => certificate("swtpm-localca-rootca-cert.pem"),
    issuer: () => certificate("issuercert.pem"),
  };
}

/** Makes and starts a TPM; stop it by its own `stop`. */
export async function softTpm(vendor: TpmVendor = tpmVendor()): Promise<SoftTpm> {
  const state = join(tempDir("tpm"), "state");
  mkdirSync(state);
  execFileSync(
    tool("swtpm_setup"),
    ["--tpm2", "--tpmstate", state, "--config", join(vendor.dir, "setup.conf"), "--create-ek-cert", "--lock-nvram"],
    { stdio: "pipe" },
  );
  const port = await twoFreePorts();
  const child = spawn(
    tool("swtpm"),
    [
      ...["socket", "--tpm2", "--tpmstate", `dir=${state}`],
      ...["--server", `type=tcp,port=${port},bindaddr=127.0.0.1`],
      ...["--ctrl", `type=tcp,port=${port + 1},bindaddr=127.0.0.1`],
      ...["--flags", "not-need-init,startup-clear"],
    ],
    { stdio: "ignore" },
  );
  await answering(port, child);
  return {
    tcti: `swtpm:host=127.0.0.1,port=${port}`,
    vendor,
    stop: async () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const ended = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGTERM");
      await ended;
    },
  };
}

/** tpm2-tss takes the control channel to be at the next port. */
async function twoFreePorts(): Promise<number> {
  for (;;) {
    const [first, close] = await listening(0);
    const second = await listening(first + 1).catch(() => undefined);
    await close();
    if (second === undefined) continue;
    await second[1]();
    return first;
  }
}

function listening(port: number): Promise<[number, () => Promise<void>]> {
  const server = createServer();
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, "127.0.0.1", () => {
      const { port: taken } = server.address() as { port: number };
      resolve([taken, () => new Promise<void>((closed) => server.close(() => closed()))]);
    });
  });
}

async function answering(port: number, child: ChildProcess): Promise<void> {
  for (let tries = 0; tries < 100; tries++) {
    if (child.exitCode !== null) throw new Error(`swtpm ended with ${child.exitCode}`);
    const there = await new Promise<boolean>((resolve) => {
      const socket = connect(port, "127.0.0.1");
      socket.once("connect", () => resolve(true)).once("error", () => resolve(false));
      socket.once("connect", () => socket.destroy());
    });
    if (there) return;
    await pause(50);
  }
  throw new Error("swtpm doesn't answer");
}
