import { z } from "zod";
import { toBase64 } from "../../lib/domain/bytes.ts";
import { CountersignError, errorCodeOf, isCountersignError } from "../../lib/domain/errors.ts";
import { pemEncode } from "../../lib/pki/pem.ts";
import { exchange, refusalOf } from "../exchange.ts";

/** What a site asks of the hub's management API. */

export interface HubAccess {
  readonly url: string;
  /** PEM: the hub's infrastructure CA, and this site's operator certificate there */
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

const caEntry = z.object({
  name: z.string(),
  state: z.string(),
  sha256: z.string().nullable(),
  code: z.string().optional(),
});
export type HubCaEntry = z.infer<typeof caEntry>;

const TIMEOUT_MS = 30_000;
const MAX_ANSWER_BYTES = 256 * 1024;

/** Asks the hub for a verification code under this name; asked again, gives what is there. */
export async function offerCa(
  hub: HubAccess,
  name: string,
  more: { certificate: string; succeeds?: string | undefined },
): Promise<HubCaEntry> {
  return caEntry.parse(await call(hub, "POST", "/api/v1/cas", { name, ...more }));
}

export async function listCas(hub: HubAccess): Promise<HubCaEntry[]> {
  return z.object({ cas: z.array(caEntry) }).parse(await call(hub, "GET", "/api/v1/cas")).cas;
}

/** False when it wasn't there. */
export async function removeCa(hub: HubAccess, name: string): Promise<boolean> {
  return (await whereThere(call(hub, "DELETE", `/api/v1/cas/${encodeURIComponent(name)}`))) !== MISSING;
}

export async function readCa(hub: HubAccess, name: string): Promise<HubCaEntry> {
  return caEntry.parse(await call(hub, "GET", `/api/v1/cas/${encodeURIComponent(name)}`));
}

/** @param proof PEM certificates: the CA's, and the verification certificate whose CN is the hub's code */
export async function verifyCa(
  hub: HubAccess,
  name: string,
  proof: { ca: string; verification: string },
): Promise<HubCaEntry> {
  return caEntry.parse(await call(hub, "POST", `/api/v1/cas/${encodeURIComponent(name)}/verify`, proof));
}

const deviceEntry = z.object({ deviceId: z.string(), state: z.enum(["enabled", "disabled"]) });
export type HubDeviceEntry = z.infer<typeof deviceEntry>;
const devicePath = (deviceId: string): string => `/api/v1/devices/${encodeURIComponent(deviceId)}`;

/** @throws CountersignError `already-exists` */
export async function createDevice(hub: HubAccess, deviceId: string): Promise<HubDeviceEntry> {
  return deviceEntry.parse(await call(hub, "POST", "/api/v1/devices", { deviceId }));
}

export async function readDevice(hub: HubAccess, deviceId: string): Promise<HubDeviceEntry | undefined> {
  const found = await whereThere(call(hub, "GET", devicePath(deviceId)));
  return found === MISSING ? undefined : deviceEntry.parse(found);
}

/** Undefined when it isn't there. */
export async function setDevice(
  hub: HubAccess,
  deviceId: string,
  verb: "enable" | "disable",
): Promise<HubDeviceEntry | undefined> {
  const found = await whereThere(call(hub, "POST", `${devicePath(deviceId)}/${verb}`, {}));
  return found === MISSING ? undefined : deviceEntry.parse(found);
}

/** False when it wasn't there. */
export async function removeDevice(hub: HubAccess, deviceId: string): Promise<boolean> {
  return (await whereThere(call(hub, "DELETE", devicePath(deviceId)))) !== MISSING;
}

const MISSING = Symbol("missing");

async function whereThere(answer: Promise<unknown>): Promise<unknown> {
  try {
    return await answer;
  } catch (error) {
    if (errorCodeOf(error) === "not-found") return MISSING;
    throw error;
  }
}

/** Beside what an operator blocks by hand. In the query, which a hub that knows no sources leaves aside. */
const AS_REVOKED = "?source=revocation";

/** Keeps a CA's key out, with every certificate that was ever made for it. Done before: nothing changes. */
export async function blockCa(hub: HubAccess, ca: Uint8Array, reason: string): Promise<void> {
  const certificate = pemEncode("CERTIFICATE", ca);
  await call(hub, "POST", `/api/v1/blocks${AS_REVOKED}`, { certificate, kind: "key", reason: reason.slice(0, 200) });
}

/** @param keyId SHA-256 of the SPKI; one that isn't blocked stays so, and one that an operator blocks as well stays blocked */
export async function unblockCa(hub: HubAccess, keyId: string): Promise<void> {
  await whereThere(call(hub, "DELETE", `/api/v1/blocks/${keyId}${AS_REVOKED}`));
}

/** Some 90,000 entries: as much as a hub lets anybody bring, in base64. */
export const MAX_HANDED_OCTETS = 4_500_000;

/** Hands a hub a CA's newest CRL, which speaks for itself. False when the hub doesn't follow that CA. */
export async function handCrl(hub: Pick<HubAccess, "url" | "ca">, crl: Uint8Array): Promise<boolean> {
  return (await whereThere(call(hub, "POST", "/api/v1/crl-updates", { crl: toBase64(crl) }))) !== MISSING;
}

/** @throws CountersignError the hub's own refusal by its code, `component-unreachable` for everything else */
async function call(
  hub: Pick<HubAccess, "url" | "ca"> & Partial<HubAccess>,
  method: string,
  path: string,
  body?: unknown,
): Promise<unknown> {
  try {
    const answer = await exchange({
      url: new URL(path, hub.url),
      method,
      tls: hub,
      body: body === undefined ? undefined : { bytes: JSON.stringify(body), type: "application/json" },
      timeoutMs: TIMEOUT_MS,
      maxAnswerBytes: MAX_ANSWER_BYTES,
    });
    if (answer.status < 200 || answer.status >= 300) throw refusalOf(answer) ?? new Error(`HTTP ${answer.status}`);
    return answer.body.length === 0 ? undefined : (JSON.parse(Buffer.from(answer.body).toString("utf8")) as unknown);
  } catch (cause) {
    if (isCountersignError(cause)) throw cause;
    const message = `the hub at ${hub.url} doesn't answer (${(cause as Error).message})`;
    throw new CountersignError("component-unreachable", message, { cause });
  }
}
