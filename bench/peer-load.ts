import { Agent, request } from "node:https";
import { CountersignError } from "../lib/domain/errors.ts";
import { latencyOf, type Latency } from "./statistics.ts";
import { memoryOf, ownCpuMs, usageOf } from "./usage.ts";

/** Many hands at a CA's door: each asks for one certificate, waits for it, and asks for the next. */

export interface PeerResult {
  readonly name: string;
  /** requests under way at which it was fastest: the figures are of these */
  readonly concurrency: number;
  /** what it came to with others */
  readonly rounds: readonly { readonly concurrency: number; readonly devicesPerSecond: number }[];
  readonly devices: number;
  readonly seconds: number;
  readonly devicesPerSecond: number;
  readonly latency: Latency;
  readonly cpuMicros: number;
  readonly clientCpuMicros: number;
  readonly memoryBytes: number;
}

export interface DeviceCsr {
  readonly id: string;
  readonly pem: string;
}

export interface PeerDoor {
  readonly name: string;
  readonly pid: number;
  /** PEM of the CA that its TLS certificate comes from */
  readonly ca: Uint8Array | string;
  /** where a CSR is posted */
  readonly url: string;
  /** the bodies of requests, made before anything is measured */
  readonly bodies: (csrs: readonly DeviceCsr[]) => readonly string[];
  /** whether an answer holds a certificate */
  readonly issued: (answer: Answer) => boolean;
}

export interface Answer {
  readonly status: number;
  readonly body: string;
}

/** The best of these is taken: a CA is measured where it is at its best. */
export const CONCURRENCIES = [8, 32, 64] as const;
const WARM_UP = 500;
const REQUEST_MS = 30_000;

/**
 * The same number of CSRs at each concurrency, after some that aren't measured.
 * @throws CountersignError `internal` when one isn't certified: a benchmark of refusals measures nothing
 */
export async function measurePeer(door: PeerDoor, csrs: readonly DeviceCsr[]): Promise<PeerResult> {
  const warm = Math.min(WARM_UP, csrs.length >> 2);
  const each = Math.floor((csrs.length - warm) / CONCURRENCIES.length);
  await underWay(door, door.bodies(csrs.slice(0, warm)), 32);
  const rounds: Omit<PeerResult, "name" | "rounds" | "memoryBytes">[] = [];
  const part = [{ name: door.name, pid: door.pid }];
  const cpuMs = (): number => usageOf(part).get(door.name)!.cpuMs;
  for (const [i, concurrency] of CONCURRENCIES.entries()) {
    const devices = each;
    const bodies = door.bodies(csrs.slice(warm + i * each, warm + (i + 1) * each));
    const [before, own, since] = [cpuMs(), ownCpuMs(), performance.now()];
    const latencies = await underWay(door, bodies, concurrency);
    const seconds = (performance.now() - since) / 1000;
    rounds.push({
      ...{ concurrency, devices, seconds, devicesPerSecond: devices / seconds, latency: latencyOf(latencies) },
      cpuMicros: ((cpuMs() - before) * 1000) / devices,
      clientCpuMicros: ((ownCpuMs() - own) * 1000) / devices,
    });
  }
  const best = rounds.reduce((a, b) => (b.devicesPerSecond > a.devicesPerSecond ? b : a));
  return { name: door.name, rounds, ...best, memoryBytes: memoryOf(part).get(door.name)! };
}

async function underWay(door: PeerDoor, bodies: readonly string[], concurrency: number): Promise<number[]> {
  const agent = new Agent({ ca: door.ca as string, keepAlive: true, maxSockets: concurrency });
  const latencies: number[] = [];
  let next = 0;
  const hand = async (): Promise<void> => {
    while (next < bodies.length) {
      const body = bodies[next++]!;
      const since = performance.now();
      const answer = await ask(agent, "POST", door.url, body);
      latencies.push(performance.now() - since);
      if (door.issued(answer)) continue;
      throw new CountersignError("internal", `${door.name} answered ${answer.status}: ${answer.body.slice(0, 300)}`);
    }
  };
  try {
    await Promise.all(Array.from({ length: concurrency }, hand));
  } finally {
    agent.destroy();
  }
  return latencies;
}

export function ask(agent: Agent, method: string, url: string, body?: string): Promise<Answer> {
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

/** Whether it answers a GET with 200. */
export async function answers(url: string, ca: Uint8Array | string): Promise<boolean> {
  const agent = new Agent({ ca: ca as string });
  try {
    return (await ask(agent, "GET", url)).status === 200;
  } finally {
    agent.destroy();
  }
}
