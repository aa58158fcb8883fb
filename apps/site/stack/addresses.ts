import { join } from "node:path";
import { CountersignError } from "../../../lib/domain/errors.ts";
import type { ExampleParty } from "./example.ts";
import { isPortFree, rememberedPorts } from "./ports.ts";

/** Where a stack's parts listen: remembered, or as the environment asks. */

const DEFAULT_HUB_PORT = 8883;
const DEFAULT_DPS_ADDRESS = "127.0.0.2:8883";

export function choosePorts(home: string, parties: readonly ExampleParty[]): Promise<Record<string, number>> {
  const names = [
    "postgres",
    "hub-api",
    "hub-management",
    "hub-mqtt",
    ...parties.flatMap(({ id }) => [`temporal-${id}`, `gateway-${id}`, `public-${id}`, `management-${id}`]),
  ];
  return rememberedPorts(join(home, "ports.json"), names);
}

/**
 * 8883 is hard-wired in public clients, so another port is taken only when asked for.
 * @param chosen a free one, where any will do (HUB_PORT=0)
 */
export async function hubPort(chosen: number): Promise<number> {
  const asked = process.env["HUB_PORT"];
  if (asked === "0") return chosen;
  const port = asked === undefined ? DEFAULT_HUB_PORT : Number(asked);
  if (!Number.isInteger(port) || port < 1 || port > 65_535) {
    throw new CountersignError("usage", `HUB_PORT=${asked} is no port number`);
  }
  if (await isPortFree(port)) return port;
  throw new CountersignError(
    "component-unreachable",
    `port ${port} for the hub is taken: stop what listens there, or choose another with HUB_PORT`,
  );
}

/**
 * Device provisioning has an address of its own, since clients know no other port. Where its default is taken, by
 * another stack for one, the hub goes without; one that was asked for must be had.
 */
export async function dpsAddress(): Promise<{ host: string; port: number } | undefined> {
  const asked = process.env["DPS_ADDR"];
  const [, host, digits] = /^([0-9.]{7,15}):([0-9]{1,5})$/.exec(asked ?? DEFAULT_DPS_ADDRESS) ?? [];
  const port = Number(digits);
  if (host === undefined || port < 1 || port > 65_535) {
    throw new CountersignError("usage", `DPS_ADDR=${asked} is not an IPv4 address and a port`);
  }
  if (await isPortFree(port, host)) return { host, port };
  if (asked === undefined) return undefined;
  throw new CountersignError("component-unreachable", `${asked} can't be had for device provisioning (DPS_ADDR)`);
}

/** AMQP is a second door to guard, which most devices don't need: it is opened when it is asked for. */
export async function amqpPort(): Promise<number | undefined> {
  const asked = process.env["AMQP_PORT"];
  if (asked === undefined) return undefined;
  const port = Number(asked);
  if (!Number.isInteger(port) || port < 1 || port > 65_535) {
    throw new CountersignError("usage", `AMQP_PORT=${asked} is no port number`);
  }
  if (await isPortFree(port)) return port;
  throw new CountersignError("component-unreachable", `port ${port} for AMQP is taken (AMQP_PORT)`);
}
