import { createHash, generateKeyPairSync, randomUUID, sign, type KeyObject } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Child, waitUntilReady, withFreshPorts } from "../apps/site/stack/child.ts";
import { CACHE_DIR } from "../apps/site/stack/machine.ts";
import { freePort } from "../apps/site/stack/ports.ts";
import { buildPeer } from "./build-peer.ts";
import { answers, measurePeer, type DeviceCsr, type PeerResult } from "./peer-load.ts";
import type { PreparedToken } from "./token-process.ts";

/**
 * step-ca as its users run it: TLS, a JWK provisioner with one-time tokens, its badger database, its CA key in a SoftHSM
 * token through its own PKCS#11 support. It signs one CSR a request; there is no batch, no audit log and no quota in it. Its
 * database syncs every write to the disk, as it does by default: one for the token's use, one for the certificate.
 */

const VERSION = "v0.30.2";
const MODULE = `github.com/smallstep/certificates/cmd/step-ca@${VERSION}`;
const PROVISIONER = "bench";
const BUILD_MS = 20 * 60_000;

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
  csrs: readonly DeviceCsr[];
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
  const ca = readFileSync(token.root);
  const url = `https://127.0.0.1:${port}`;
  try {
    await waitUntilReady(child, () => answers(`${url}/health`, ca), 60_000);
    return await measurePeer(
      {
        name: `step-ca ${VERSION}, badger`,
        pid: child.pid,
        ca,
        url: `${url}/1.0/sign`,
        bodies: (some) => requests(some, url, provisioner.privateKey, jwk),
        issued: ({ status }) => status === 201,
      },
      csrs,
    );
  } finally {
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
function requests(csrs: readonly DeviceCsr[], url: string, privateKey: KeyObject, jwk: Jwk): readonly string[] {
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
