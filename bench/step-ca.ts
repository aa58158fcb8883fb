import { createHash, generateKeyPairSync, randomUUID, sign, type KeyObject } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { Agent, request } from "node:https";
import { join } from "node:path";
import { Child, waitUntilReady, withFreshPorts } from "../apps/site/stack/child.ts";
import { CACHE_DIR } from "../apps/site/stack/machine.ts";
import { freePort } from "../apps/site/stack/ports.ts";
import { CountersignError } from "../lib/domain/errors.ts";
import { buildPeer } from "./build-peer.ts";
import { latencyOf, type Latency } from "./statistics.ts";
import type { PreparedToken } from "./token-process.ts";
import { memoryOf, ownCpuMs, usageOf } from "./usage.ts";

/**
 * step-ca as its users run it: TLS, a JWK provisioner with one-time tokens, its badger database, its CA key in a SoftHSM
 * token through its own PKCS#11 support. It signs one CSR a request; there is no batch, no audit log and no quota in it.
 */

const VERSION = "v0.30.2";
const MODULE = `github.com/smallstep/certificates/cmd/step-ca@${VERSION}`;
const CONCURRENCY = 32;
const PROVISIONER = "bench";
const BUILD_MS = 20 * 60_000;
const REQUEST_MS = 30_000;

export interface PeerResult {
  readonly name: string;
  readonly devices: number;
  readonly seconds: number;
  readonly devicesPerSecond: number;
  readonly latency: Latency;
  readonly cpuMicros: number;
  readonly clientCpuMicros: number;
  readonly memoryBytes: number;
}

/** The program, built once from Go's module proxy into the cache. @throws CountersignError `component-missing` */
export async function buildStepCa(onStep: (what: string) => void): Promise<string> {
  const folder = join(CACHE_DIR, "peers", `step-ca-${VERSION}`);
  return buildPeer(
    {
      name: "step-ca",
      program: join(folder, "step-ca"),
      go: "1.25",
      otherwise: "leave step-ca out of --against",
      building: `building step-ca ${VERSION} (once, some minutes)`,
      // Without YubiKeys: their support needs the PC/SC library. PKCS#11 is on with cgo.
      args: () => ["install", "-tags", "noyubikey", MODULE],
      env: { ...process.env, GOBIN: folder, CGO_ENABLED: "1", GOFLAGS: "-buildvcs=false" },
      timeoutMs: BUILD_MS,
    },
    onStep,
  );
}

/** Starts it on loopback, asks for one certificate a CSR from many hands, and stops it. */
export async function benchStepCa(options: StepCaBench): Promise<PeerResult> {
  return await withFreshPorts(async () => await benchOn(await freePort(), options));
}

interface StepCaBench {
  program: string;
  token: PreparedToken;
  dir: string;
  csrs: readonly { readonly id: string; readonly pem: string }[];
}

async function benchOn(port: number, options: StepCaBench): Promise<PeerResult> {
  const { token, dir, csrs } = options;
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const provisioner = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const jwk = publicJwk(provisioner.publicKey);
  const config = join(dir, "ca.json");
  writeFileSync(config, JSON.stringify(configuration(token, dir, port, jwk), null, 2), { mode: 0o600 });
  const child = await Child.start({
    name: "step-ca",
    command: options.program,
    args: [config],
    logFile: join(dir, "step-ca.log"),
    env: { PATH: process.env["PATH"], HOME: dir, STEPPATH: dir, SOFTHSM2_CONF: token.softhsm2Conf },
  });
  const agent = new Agent({ ca: readFileSync(token.root), keepAlive: true, maxSockets: CONCURRENCY });
  const url = `https://127.0.0.1:${port}`;
  const part = [{ name: "step-ca", pid: child.pid }];
  try {
    await waitUntilReady(child, async () => (await call(agent, "GET", `${url}/health`)).status === 200, 60_000);
    const warm = Math.min(200, Math.floor(csrs.length / 5));
    await drive(agent, url, requests(csrs.slice(0, warm), url, provisioner.privateKey, jwk));
    const bodies = requests(csrs.slice(warm), url, provisioner.privateKey, jwk);
    const before = usageOf(part).get("step-ca")!.cpuMs;
    const own = ownCpuMs();
    const since = performance.now();
    const latencies = await drive(agent, url, bodies);
    const seconds = (performance.now() - since) / 1000;
    return {
      name: `step-ca ${VERSION}, badger`,
      devices: bodies.length,
      seconds,
      devicesPerSecond: bodies.length / seconds,
      latency: latencyOf(latencies),
      cpuMicros: ((usageOf(part).get("step-ca")!.cpuMs - before) * 1000) / bodies.length,
      clientCpuMicros: ((ownCpuMs() - own) * 1000) / bodies.length,
      memoryBytes: memoryOf(part).get("step-ca")!,
    };
  } finally {
    agent.destroy();
    await child.stop();
  }
}

interface Jwk {
  readonly kty: string;
  readonly crv: string;
  readonly x: string;
  readonly y: string;
  readonly kid: string;
  readonly use: "sig";
  readonly alg: "ES256";
}

function publicJwk(key: KeyObject): Jwk {
  const { kty, crv, x, y } = key.export({ format: "jwk" }) as { kty: string; crv: string; x: string; y: string };
  // RFC 7638
  const kid = createHash("sha256").update(JSON.stringify({ crv, kty, x, y })).digest("base64url");
  return { kty, crv, x, y, kid, use: "sig", alg: "ES256" };
}

function configuration(token: PreparedToken, dir: string, port: number, key: Jwk): object {
  return {
    root: token.root,
    crt: token.intermediate,
    key: `pkcs11:id=${token.keyId.replace(/../g, "%$&")};object=${token.keyLabel}`,
    kms: {
      type: "pkcs11",
      uri: `pkcs11:module-path=${token.module};serial=${token.serial}?pin-source=${token.pinFile}`,
    },
    address: `127.0.0.1:${port}`,
    dnsNames: ["127.0.0.1"],
    db: { type: "badgerv2", dataSource: join(dir, "db") },
    authority: { provisioners: [{ type: "JWK", name: PROVISIONER, key }] },
  };
}

/** Bodies of sign requests, each with a one-time token of its own: made before anything is measured. */
function requests(
  csrs: readonly { id: string; pem: string }[],
  url: string,
  privateKey: KeyObject,
  jwk: Jwk,
): readonly string[] {
  const now = Math.floor(Date.now() / 1000);
  const header = encode({ alg: "ES256", kid: jwk.kid, typ: "JWT" });
  return csrs.map(({ id, pem }) => {
    const claims = {
      iss: PROVISIONER,
      aud: `${url}/1.0/sign`,
      sub: id,
      sans: [id],
      iat: now,
      nbf: now - 5,
      exp: now + 290,
      jti: randomUUID(),
    };
    const signed = `${header}.${encode(claims)}`;
    const signature = sign("sha256", Buffer.from(signed), { key: privateKey, dsaEncoding: "ieee-p1363" });
    return JSON.stringify({ csr: pem, ott: `${signed}.${signature.toString("base64url")}` });
  });
}

const encode = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString("base64url");

async function drive(agent: Agent, url: string, bodies: readonly string[]): Promise<number[]> {
  const latencies: number[] = [];
  let next = 0;
  const hand = async (): Promise<void> => {
    while (next < bodies.length) {
      const body = bodies[next++]!;
      const since = performance.now();
      const answer = await call(agent, "POST", `${url}/1.0/sign`, body);
      latencies.push(performance.now() - since);
      if (answer.status !== 201)
        throw new CountersignError("internal", `step-ca answered ${answer.status}: ${answer.body.slice(0, 300)}`);
    }
  };
  await Promise.all(Array.from({ length: CONCURRENCY }, hand));
  return latencies;
}

function call(agent: Agent, method: string, url: string, body?: string): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const headers =
      body === undefined ? {} : { "content-type": "application/json", "content-length": Buffer.byteLength(body) };
    const asked = request(url, { method, agent, headers, timeout: REQUEST_MS }, (response) => {
      const parts: Buffer[] = [];
      response.on("data", (part: Buffer) => parts.push(part));
      response.on("error", reject);
      response.on("end", () =>
        resolve({ status: response.statusCode ?? 0, body: Buffer.concat(parts).toString("utf8") }),
      );
    });
    asked.on("timeout", () => asked.destroy(new Error("no answer in time")));
    asked.on("error", reject);
    asked.end(body);
  });
}
