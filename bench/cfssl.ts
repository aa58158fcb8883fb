import { generateKeyPairSync } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Child, waitUntilReady, withFreshPorts } from "../apps/site/stack/child.ts";
import { CACHE_DIR } from "../apps/site/stack/machine.ts";
import { freePort } from "../apps/site/stack/ports.ts";
import { pemEncode } from "../lib/pki/pem.ts";
import { buildPeer } from "./build-peer.ts";
import { answers, measurePeer, type DeviceCsr, type PeerResult } from "./peer-load.ts";
import { benchRoot } from "./root.ts";

/**
 * cfssl's API as it comes: TLS, its CA key in a file (its program reads keys from no PKCS#11 token), no database, nobody
 * asked who he is. It checks the CSR's signature and signs one CSR a request.
 */

const VERSION = "v1.6.5";
const MODULE = `github.com/cloudflare/cfssl/cmd/cfssl@${VERSION}`;
const BUILD_MS = 10 * 60_000;

/** The program, built once from Go's module proxy into the cache. @throws CountersignError `component-missing` */
export async function buildCfssl(onStep: (what: string) => void): Promise<string> {
  const folder = join(CACHE_DIR, "peers", `cfssl-${VERSION}`);
  return buildPeer(
    {
      name: "cfssl",
      program: join(folder, "cfssl"),
      go: "1.20",
      otherwise: "leave cfssl out of --against",
      building: `building cfssl ${VERSION} (once, some minutes)`,
      // Without cgo it has no SQLite, which nothing here asks for.
      args: () => ["install", MODULE],
      env: { ...process.env, GOBIN: folder, CGO_ENABLED: "0", GOFLAGS: "-buildvcs=false" },
      timeoutMs: BUILD_MS,
    },
    onStep,
  );
}

interface CfsslBench {
  readonly program: string;
  readonly dir: string;
  readonly csrs: readonly DeviceCsr[];
}

/** Starts it on loopback, asks for one certificate a CSR from many hands, and stops it. */
export async function benchCfssl(options: CfsslBench): Promise<PeerResult> {
  return await withFreshPorts(async () => await benchOn(await freePort(), options));
}

async function benchOn(port: number, { program, dir, csrs }: CfsslBench): Promise<PeerResult> {
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const file = (name: string, text: string): string => {
    writeFileSync(join(dir, name), text, { mode: 0o600 });
    return join(dir, name);
  };
  const root = benchRoot();
  const ca = pemEncode("CERTIFICATE", root.certificate);
  const server = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const pkcs8 = { type: "pkcs8", format: "pem" } as const;
  const certificate = root.issue("server", {
    subject: { organization: "Bench", commonName: "cfssl" },
    spki: new Uint8Array(server.publicKey.export({ type: "spki", format: "der" })),
    san: [{ kind: "ip", value: Uint8Array.of(127, 0, 0, 1) }],
  });
  const signing = { default: { expiry: "8760h", usages: ["digital signature", "client auth"] } };
  const child = await Child.start({
    name: "cfssl",
    command: program,
    args: [
      ...["serve", "-address", "127.0.0.1", "-port", String(port)],
      ...["-ca", file("ca.pem", ca), "-ca-key", file("ca.key", root.key.export(pkcs8) as string)],
      ...["-config", file("config.json", JSON.stringify({ signing }))],
      ...["-tls-cert", file("tls.pem", pemEncode("CERTIFICATE", certificate))],
      ...["-tls-key", file("tls.key", server.privateKey.export(pkcs8) as string)],
      // Its two lines a request would cost it time that step-ca doesn't spend.
      ...["-loglevel", "2"],
    ],
    logFile: join(dir, "cfssl.log"),
    env: { PATH: process.env["PATH"], HOME: dir },
  });
  const url = `https://127.0.0.1:${port}/api/v1/cfssl`;
  try {
    await waitUntilReady(child, () => answers(`${url}/health`, ca), 60_000);
    return await measurePeer(
      {
        name: `cfssl ${VERSION}, key in a file, no database`,
        pid: child.pid,
        ca,
        url: `${url}/sign`,
        bodies: (some) => some.map(({ id, pem }) => JSON.stringify({ certificate_request: pem, hosts: [id] })),
        issued: ({ status, body }) => status === 200 && body.includes("BEGIN CERTIFICATE"),
      },
      csrs,
    );
  } finally {
    await child.stop();
  }
}
