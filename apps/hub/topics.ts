import { DEVICE_ID } from "../../lib/domain/ids.ts";

/**
 * The device ID in an IoT Hub MQTT username, `{host}/{deviceId}/?api-version=...`; undefined when it has another form.
 * Modules (`{host}/{deviceId}/{moduleId}/...`) aren't served.
 */
export function deviceIdOfUsername(username: string): string | undefined {
  if (username.length > 1024) return undefined;
  const match = /^[A-Za-z0-9.:_[\]-]{1,255}\/([^/?]{1,64})\/?\?(?:.*&)?api-version=[0-9]{4}-[0-9]{2}-[0-9]{2}/.exec(
    username,
  );
  const id = match?.[1];
  return id !== undefined && DEVICE_ID.test(id) ? id : undefined;
}

export interface EventTopic {
  /** Names as sent, `$.mid`, `$.ct`, ... */
  system: Record<string, string>;
  properties: Record<string, string>;
}

const MAX_PROPERTIES = 128;
const MAX_TOPIC = 16_384;

/**
 * Reads `devices/{deviceId}/messages/events/{property bag}` of exactly this device; undefined for any other topic and
 * for a bag that can't be decoded.
 */
export function parseEventTopic(topic: string, deviceId: string): EventTopic | undefined {
  const prefix = `devices/${deviceId}/messages/events`;
  if (topic === prefix) return { system: {}, properties: {} };
  if (topic.length > MAX_TOPIC || !topic.startsWith(`${prefix}/`)) return undefined;
  let bag = topic.slice(prefix.length + 1);
  // Some clients close the bag with a slash; a value's own slash is encoded.
  if (bag.endsWith("/")) bag = bag.slice(0, -1);
  if (bag.includes("/")) return undefined;
  const pairs = bag === "" ? [] : bag.split("&");
  if (pairs.length > MAX_PROPERTIES) return undefined;
  // Without a prototype: names come from the wire.
  const system = Object.create(null) as Record<string, string>;
  const properties = Object.create(null) as Record<string, string>;
  for (const pair of pairs) {
    if (pair === "") continue;
    const split = pair.indexOf("=");
    const name = decode(split === -1 ? pair : pair.slice(0, split));
    const value = split === -1 ? "" : decode(pair.slice(split + 1));
    if (name === undefined || name === "" || value === undefined) return undefined;
    (name.startsWith("$.") ? system : properties)[name] = value;
  }
  return { system, properties };
}

function decode(text: string): string | undefined {
  try {
    const decoded = decodeURIComponent(text);
    // U+0000 has no place in a JSON column, nor in a property.
    return decoded.includes("\0") ? undefined : decoded;
  } catch {
    return undefined;
  }
}
