import { readFile } from "node:fs/promises";
import { Agent, request } from "node:https";
import { dirname, join, resolve } from "node:path";
import { z } from "zod";
import { CountersignError } from "../../lib/domain/errors.ts";
import { problemError, stateFolder } from "./site-client.ts";

/** The part of `hub.json` that is meant for the command line. */
const hubFile = z.object({
  operator: z.object({ url: z.url(), ca: z.string(), cert: z.string(), key: z.string() }),
});

export interface HubCaShown {
  name: string;
  state: "unverified" | "verified";
  sha256: string | null;
  createdAt: string;
  verifiedAt: string | null;
  code?: string;
  codeExpiresAt?: string;
}

export interface HubDeviceShown {
  deviceId: string;
  state: "enabled" | "disabled";
  createdAt: string;
  caName: string | null;
  firstConnectedAt: string | null;
  lastConnectedAt: string | null;
  chain: { sha256: string; commonName: string | null; serial: string; notAfter: string }[] | null;
  /** Present when one device is shown. */
  telemetry?: number;
}

const MAX_ANSWER_BYTES = 16 << 20;

/** The hub's management API as its operator sees it. */
export class HubClient {
  readonly url: string;
  readonly #agent: Agent;

  private constructor(url: string, agent: Agent) {
    this.url = url;
    this.#agent = agent;
  }

  /** @throws CountersignError `component-missing` when there is no hub under the state folder */
  static async open(home = stateFolder()): Promise<HubClient> {
    const file = join(home, "hub", "hub.json");
    try {
      const { operator } = hubFile.parse(JSON.parse(await readFile(file, "utf8")));
      const at = (name: string): Promise<string> => readFile(resolve(dirname(file), name), "utf8");
      const [ca, cert, key] = await Promise.all([at(operator.ca), at(operator.cert), at(operator.key)]);
      const agent = new Agent({ ca, cert, key, keepAlive: true, maxCachedSessions: 0 });
      return new HubClient(operator.url.replace(/\/$/, ""), agent);
    } catch (cause) {
      const message = `no usable hub in ${file} (${(cause as Error).message}): start the stack with \`countersign up\``;
      throw new CountersignError("component-missing", message, { cause });
    }
  }

  /** Asks for a verification code; the CA's certificate may come along. */
  offerCa(name: string, certificate?: string): Promise<HubCaShown> {
    return this.#call("POST", "/api/v1/cas", certificate === undefined ? { name } : { name, certificate });
  }

  /** Both PEM: the CA, and a certificate with the code as CN that the CA's key has signed. */
  verifyCa(name: string, ca: string, verification: string): Promise<HubCaShown> {
    return this.#call("POST", `/api/v1/cas/${encodeURIComponent(name)}/verify`, { ca, verification });
  }

  async cas(): Promise<HubCaShown[]> {
    return (await this.#call<{ cas: HubCaShown[] }>("GET", "/api/v1/cas")).cas;
  }

  async *devices(): AsyncGenerator<HubDeviceShown> {
    for (let after: string | null = ""; after !== null;) {
      const path = `/api/v1/devices?limit=1000&after=${encodeURIComponent(after)}`;
      const page: { devices: HubDeviceShown[]; next: string | null } = await this.#call("GET", path);
      yield* page.devices;
      after = page.next;
    }
  }

  device(id: string): Promise<HubDeviceShown> {
    return this.#call("GET", devicePath(id));
  }

  createDevice(deviceId: string): Promise<HubDeviceShown> {
    return this.#call("POST", "/api/v1/devices", { deviceId });
  }

  setDevice(id: string, verb: "enable" | "disable"): Promise<HubDeviceShown> {
    return this.#call("POST", `${devicePath(id)}/${verb}`, {});
  }

  async removeDevice(id: string): Promise<void> {
    await this.#call("DELETE", devicePath(id));
  }

  status(): Promise<{
    mqttPort: number;
    connected: number;
    refusals: Record<string, number>;
    devicesConnected: number;
    telemetry: number;
  }> {
    return this.#call("GET", "/api/v1/status");
  }

  /** Closes idle connections. */
  close(): void {
    this.#agent.destroy();
  }

  #call<T>(method: string, path: string, body?: unknown): Promise<T> {
    return new Promise((done, fail) => {
      const text = body === undefined ? undefined : JSON.stringify(body);
      const headers = text === undefined ? {} : { "content-type": "application/json" };
      const call = request(`${this.url}${path}`, { method, agent: this.#agent, headers }, (response) => {
        const parts: Uint8Array[] = [];
        let size = 0;
        response.on("data", (part: Uint8Array) => {
          size += part.length;
          if (size > MAX_ANSWER_BYTES) response.destroy(new Error("the answer is too long"));
          else parts.push(part);
        });
        response.on("error", (cause) => fail(this.#unreachable(cause)));
        response.on("end", () => {
          const bytes = Buffer.concat(parts);
          const status = response.statusCode ?? 0;
          if (status < 200 || status >= 300) return fail(problemError(status, bytes, `${method} ${this.url}${path}`));
          try {
            done((bytes.length === 0 ? undefined : JSON.parse(bytes.toString("utf8"))) as T);
          } catch (cause) {
            fail(new CountersignError("internal", "the hub's answer isn't JSON", { cause }));
          }
        });
      });
      call.setTimeout(60_000, () => call.destroy(new Error("no answer in time")));
      call.on("error", (cause) => fail(this.#unreachable(cause)));
      call.end(text);
    });
  }

  #unreachable(cause: Error): CountersignError {
    const message = `the hub at ${this.url} doesn't answer (${cause.message}): is the stack up? See \`countersign status\``;
    return new CountersignError("component-unreachable", message, { cause });
  }
}

function devicePath(id: string): string {
  return `/api/v1/devices/${encodeURIComponent(id)}`;
}
