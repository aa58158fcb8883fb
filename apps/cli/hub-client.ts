import { readFile } from "node:fs/promises";
import { Agent } from "node:https";
import { dirname, join, resolve } from "node:path";
import { z } from "zod";
import { CountersignError } from "../../lib/domain/errors.ts";
import type {
  HubCaShown,
  HubBlockShown,
  HubCrlShown,
  HubMonitorShown,
  HubGroupShown,
  HubDeviceShown,
  HubDevicesSet,
  HubPassportShown,
  HubTrustShown,
  HubMessageShown,
  HubTwinShown,
  HubEnrollmentGroupShown,
} from "./hub-answers.ts";
import { call, jsonOf, type Peer } from "./peer.ts";
import { stateFolder } from "./site-client.ts";

/** The part of `hub.json` that is meant for the command line. */
const hubFile = z.object({
  operator: z.object({ url: z.url(), ca: z.string(), cert: z.string(), key: z.string() }),
});

const MAX_ANSWER_BYTES = 16 << 20;

/** The hub's management API as its operator sees it. */
export class HubClient {
  readonly #peer: Peer;
  /** PEM: what the certificate of the API, and of the listeners for devices, is checked against. */
  readonly serverCa: string;

  private constructor(url: string, agent: Agent, serverCa: string) {
    this.serverCa = serverCa;
    this.#peer = { name: "the hub", url, agent, maxAnswer: MAX_ANSWER_BYTES };
  }

  /** @throws CountersignError `component-missing` when there is no hub under the state folder */
  static async open(home = stateFolder()): Promise<HubClient> {
    const file = join(home, "hub", "hub.json");
    try {
      const { operator } = hubFile.parse(JSON.parse(await readFile(file, "utf8")));
      const at = (name: string): Promise<string> => readFile(resolve(dirname(file), name), "utf8");
      const [ca, cert, key] = await Promise.all([at(operator.ca), at(operator.cert), at(operator.key)]);
      const agent = new Agent({ ca, cert, key, keepAlive: true, maxCachedSessions: 0 });
      return new HubClient(operator.url.replace(/\/$/, ""), agent, ca);
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

  ca(name: string): Promise<HubCaShown> {
    return this.#call("GET", caPath(name));
  }

  setCa(name: string, verb: "enable" | "disable"): Promise<HubCaShown> {
    return this.#call("POST", `${caPath(name)}/${verb}`, {});
  }

  setEnrolment(name: string, enrolment: string): Promise<HubCaShown> {
    return this.#call("PUT", `${caPath(name)}/enrolment`, { enrolment });
  }

  setUnlogged(name: string, unlogged: string): Promise<HubCaShown> {
    return this.#call("PUT", `${caPath(name)}/unlogged`, { unlogged });
  }

  /** The ledgers that the hub follows, and what is wrong with them. */
  monitor(): Promise<HubMonitorShown> {
    return this.#call("GET", "/api/v1/monitor");
  }

  async removeCa(name: string): Promise<void> {
    await this.#call("DELETE", caPath(name));
  }

  /** By a PEM certificate, or by the digest of one or of a key. */
  block(
    what: { certificate: string; kind?: string } | { sha256: string; kind: string },
    reason: string,
  ): Promise<HubBlockShown> {
    return this.#call("POST", "/api/v1/blocks", { ...what, reason });
  }

  async blocks(): Promise<HubBlockShown[]> {
    return (await this.#call<{ blocks: HubBlockShown[] }>("GET", "/api/v1/blocks")).blocks;
  }

  async unblock(sha256: string): Promise<void> {
    await this.#call("DELETE", `/api/v1/blocks/${encodeURIComponent(sha256)}`);
  }

  followCrl(crl: { name: string; issuer: string; url?: string }): Promise<HubCrlShown> {
    return this.#call("POST", "/api/v1/crls", crl);
  }

  /** @param crl base64 of its DER */
  pushCrl(name: string, crl: string): Promise<HubCrlShown & { taken: boolean }> {
    return this.#call("PUT", `/api/v1/crls/${encodeURIComponent(name)}`, { crl });
  }

  async crls(): Promise<HubCrlShown[]> {
    return (await this.#call<{ crls: HubCrlShown[] }>("GET", "/api/v1/crls")).crls;
  }

  async unfollowCrl(name: string): Promise<void> {
    await this.#call("DELETE", `/api/v1/crls/${encodeURIComponent(name)}`);
  }

  async groups(): Promise<HubGroupShown[]> {
    return (await this.#call<{ groups: HubGroupShown[] }>("GET", "/api/v1/groups")).groups;
  }

  setGroup(name: string, group: Pick<HubGroupShown, "query" | "enrolment" | "scopes">): Promise<HubGroupShown> {
    return this.#call("PUT", groupPath(name), group);
  }

  switchGroup(name: string, verb: "enable" | "disable"): Promise<HubGroupShown> {
    return this.#call("POST", `${groupPath(name)}/${verb}`, {});
  }

  async removeGroup(name: string): Promise<void> {
    await this.#call("DELETE", groupPath(name));
  }

  /** IDs of the devices in a group, by what the hub last saw of each. */
  async askGroup(query: string): Promise<string[]> {
    return (await this.#call<{ devices: string[] }>("POST", "/api/v1/groups/ask", { query })).devices;
  }

  /** What passports are verified against from now on. */
  trustPassports(root: string, policy: unknown): Promise<HubTrustShown> {
    return this.#call("PUT", "/api/v1/passport-trust", { root, policy });
  }

  passportTrust(): Promise<HubTrustShown> {
    return this.#call("GET", "/api/v1/passport-trust");
  }

  async addPassport(passport: string): Promise<HubPassportShown> {
    const body = { text: passport, type: "application/octet-stream" };
    return jsonOf(this.#peer, await call(this.#peer, { method: "POST", path: "/api/v1/passports", body }));
  }

  passport(deviceId: string): Promise<HubPassportShown> {
    return this.#call("GET", `/api/v1/passports/${encodeURIComponent(deviceId)}`);
  }

  async removePassport(deviceId: string): Promise<void> {
    await this.#call("DELETE", `/api/v1/passports/${encodeURIComponent(deviceId)}`);
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

  /** In one commit at the hub, and one look at its connections. At most 20,000. */
  setDevices(deviceIds: readonly string[], verb: "enable" | "disable"): Promise<HubDevicesSet> {
    return this.#call("POST", "/api/v1/device-states", { deviceIds, state: `${verb}d` });
  }

  async removeDevice(id: string): Promise<void> {
    await this.#call("DELETE", devicePath(id));
  }

  /** @param message its body in base64 */
  sendMessage(
    id: string,
    message: { body: string; properties: Record<string, string>; messageId?: string; expirySeconds?: number },
  ): Promise<HubMessageShown> {
    return this.#call("POST", `${devicePath(id)}/messages`, message);
  }

  /** What waits for the device. */
  async messages(id: string): Promise<HubMessageShown[]> {
    return (await this.#call<{ messages: HubMessageShown[] }>("GET", `${devicePath(id)}/messages`)).messages;
  }

  addEnrollment(name: string, ca: string): Promise<HubEnrollmentGroupShown> {
    return this.#call("POST", "/api/v1/enrollment-groups", { name, ca });
  }

  async enrollments(): Promise<HubEnrollmentGroupShown[]> {
    return (await this.#call<{ groups: HubEnrollmentGroupShown[] }>("GET", "/api/v1/enrollment-groups")).groups;
  }

  setEnrollment(name: string, verb: "enable" | "disable"): Promise<HubEnrollmentGroupShown> {
    return this.#call("POST", `/api/v1/enrollment-groups/${encodeURIComponent(name)}/${verb}`, {});
  }

  async removeEnrollment(name: string): Promise<void> {
    await this.#call("DELETE", `/api/v1/enrollment-groups/${encodeURIComponent(name)}`);
  }

  twin(id: string): Promise<HubTwinShown> {
    return this.#call("GET", `${devicePath(id)}/twin`);
  }

  /** @param patch RFC 7396 */
  setDesired(id: string, patch: unknown): Promise<HubTwinShown> {
    return this.#call("PATCH", `${devicePath(id)}/twin`, { desired: patch });
  }

  invoke(
    id: string,
    method: string,
    call: { payload: unknown; timeoutSeconds: number },
  ): Promise<{ status: number; payload: unknown }> {
    return this.#call("POST", `${devicePath(id)}/methods/${encodeURIComponent(method)}`, call);
  }

  status(): Promise<{
    mqttPort: number;
    connected: number;
    refusals: Record<string, number>;
    devicesConnected: number;
    telemetry: number;
    alarms: number;
  }> {
    return this.#call("GET", "/api/v1/status");
  }

  /** Closes idle connections. */
  close(): void {
    this.#peer.agent.destroy();
  }

  async #call<T>(method: string, path: string, body?: unknown): Promise<T> {
    const sent = body === undefined ? {} : { body: { text: JSON.stringify(body), type: "application/json" } };
    const bytes = await call(this.#peer, { method, path, ...sent });
    return bytes.length === 0 ? (undefined as T) : jsonOf<T>(this.#peer, bytes);
  }
}

function caPath(name: string): string {
  return `/api/v1/cas/${encodeURIComponent(name)}`;
}

function groupPath(name: string): string {
  return `/api/v1/groups/${encodeURIComponent(name)}`;
}

function devicePath(id: string): string {
  return `/api/v1/devices/${encodeURIComponent(id)}`;
}
