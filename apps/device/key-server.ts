import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { formatPkcs11Uri } from "../../hsm/index.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { keyServer } from "./places.ts";
import { Tpm } from "./tpm/tpm.ts";
import { type Tray, trayEnvironment } from "./tray.ts";

const START_MS = 10_000;

/**
 * Serves the tokens of this tray on a socket of its own (0700) while `work` goes on: who asks for signatures there has the
 * PKCS#11 interface, and still needs the PIN.
 * @param work gets the environment by which OpenSSL's engine reaches them
 * @throws CountersignError `component-missing`, `component-unreachable`
 */
export async function withKeyServer<T>(tray: Tray, work: (environment: NodeJS.ProcessEnv) => Promise<T>): Promise<T> {
  const { program, client } = keyServer();
  await freeSlots(tray);
  const dir = mkdtempSync(join(tmpdir(), "countersign-keys-"));
  const socket = join(dir, "pkcs11");
  const tokens = formatPkcs11Uri({});
  const server = spawn(program, ["--foreground", "--provider", tray.module, "--name", socket, tokens], {
    stdio: "ignore",
    env: { ...process.env, ...trayEnvironment(tray) },
  });
  const ended = new Promise<void>((resolve) => server.once("exit", () => resolve()).once("error", () => resolve()));
  try {
    for (let waited = 0; !existsSync(socket); waited += 20) {
      if (server.exitCode !== null || waited > START_MS) {
        throw new CountersignError("component-unreachable", `p11-kit's server doesn't serve the tokens of ${tray.dir}`);
      }
      await pause(20);
    }
    return await work({ P11_KIT_SERVER_ADDRESS: `unix:path=${socket}`, PKCS11_MODULE_PATH: client });
  } finally {
    server.kill("SIGTERM");
    await Promise.race([ended, pause(2_000)]);
    rmSync(dir, { recursive: true, force: true });
    // The server keeps what it has loaded, and is ended by a signal.
    await freeSlots(tray).catch(() => undefined);
  }
}

async function freeSlots({ tpm: tcti }: Tray): Promise<void> {
  if (tcti === undefined) return;
  const tpm = await Tpm.open(tcti);
  try {
    await tpm.flushLeftOvers();
  } finally {
    await tpm.close();
  }
}
