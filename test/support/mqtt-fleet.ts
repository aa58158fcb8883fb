import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { PROJECT_ROOT, tempDir } from "./index.ts";
import type { TestHub } from "./hub-process.ts";
import { CLIENT_AUTH, testCertificate, type TestCertificate } from "./test-pki.ts";

export interface FleetAnswer {
  up: number;
  refused: Record<string, string>;
  seconds: number;
}

export interface Fleet extends FleetAnswer {
  /** Resolves when so many connections are closed: when each was, Unix time in milliseconds. */
  closed(count: number): Promise<Record<string, number>>;
  end(): void;
}

export interface FleetDevice {
  id: string;
  chain: string;
  key: string;
}

/** Devices under `issuer`, all with one key: what is measured is the hub, not the making of keys. */
export async function fleetDevices(
  ids: readonly string[],
  issuer: TestCertificate,
  above: readonly TestCertificate[],
): Promise<FleetDevice[]> {
  const dir = tempDir("fleet");
  const first = await testCertificate("CN=key", {});
  writeFileSync(join(dir, "key.pem"), first.keyPem);
  const devices: FleetDevice[] = [];
  for (const id of ids) {
    const leaf = await testCertificate(`CN=${id}`, { issuer, eku: [CLIENT_AUTH], keys: first.keys });
    const chain = join(dir, `${id}.pem`);
    writeFileSync(chain, leaf.pem + issuer.pem + above.map(({ pem }) => pem).join(""));
    devices.push({ id, chain, key: join(dir, "key.pem") });
  }
  return devices;
}

/** Connects them all, in a process that isn't Node, and keeps them connected. */
export async function connectFleet(
  hub: Pick<TestHub, "mqttPort"> & { infraCa: { pem: string } },
  devices: readonly FleetDevice[],
): Promise<Fleet> {
  const ca = join(tempDir("fleet-ca"), "ca.pem");
  writeFileSync(ca, hub.infraCa.pem);
  const child = spawn("python3", [join(PROJECT_ROOT, "test/support/mqtt_fleet.py")], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const answer = async <T>(): Promise<T> => {
    const { value, done } = await lines.next();
    if (done) throw new Error("the fleet ended");
    return JSON.parse(value as string) as T;
  };
  child.stdin.write(`${JSON.stringify({ host: "127.0.0.1", port: hub.mqttPort, ca, devices })}\n`);
  const up = await answer<FleetAnswer>();
  return {
    ...up,
    async closed(count) {
      child.stdin.write(`wait ${count}\n`);
      return (await answer<{ closed: Record<string, number> }>()).closed;
    },
    end() {
      child.kill();
    },
  };
}
