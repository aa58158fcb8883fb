import { randomInt } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { dirname } from "node:path";
import { z } from "zod";
import { CountersignError } from "../../../lib/domain/errors.ts";

/** Below every system's ephemeral range: an outgoing connection never sits on a port that we remember for a restart. */
const FIRST = 18_000;
const LAST = 31_999;
const ATTEMPTS = 200;

const Remembered = z.record(z.string(), z.number().int().min(1).max(65_535));

/** True when nothing listens on the port right now. */
export function isPortFree(port: number, host = "127.0.0.1"): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen({ port, host, exclusive: true }, () => server.close(() => resolve(true)));
  });
}

/** @throws CountersignError component-unreachable when no port can be had */
export async function freePort(taken: ReadonlySet<number> = new Set(), host = "127.0.0.1"): Promise<number> {
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const port = randomInt(FIRST, LAST + 1);
    if (!taken.has(port) && (await isPortFree(port, host))) return port;
  }
  throw new CountersignError("component-unreachable", `no free port between ${FIRST} and ${LAST} on ${host}`);
}

/**
 * One port per name, the same as last time where it's still free: certificates and peers hold our URLs. Names are
 * added to the file and never removed. Call it only while the servers are down.
 *
 * @param file JSON object of name to port, made when missing
 */
export async function rememberedPorts<Name extends string>(
  file: string,
  names: readonly Name[],
): Promise<Record<Name, number>> {
  const remembered = read(file);
  const taken = new Set(Object.values(remembered));
  for (const name of names) {
    const before = remembered[name];
    if (before !== undefined && (await isPortFree(before))) continue;
    const port = await freePort(taken);
    taken.add(port);
    remembered[name] = port;
  }
  write(file, remembered);
  return Object.fromEntries(names.map((name) => [name, remembered[name]])) as Record<Name, number>;
}

function read(file: string): Record<string, number> {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch {
    return {};
  }
  try {
    return Remembered.parse(JSON.parse(text));
  } catch (cause) {
    throw new CountersignError("input-invalid", `${file} is damaged: delete it to have new ports chosen`, { cause });
  }
}

function write(file: string, ports: Record<string, number>): void {
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
  const next = `${file}.${process.pid}.tmp`;
  writeFileSync(next, `${JSON.stringify(ports, null, 2)}\n`, { mode: 0o600 });
  renameSync(next, file);
}
