import type { DeviceMessage } from "../../store/hub-traffic.ts";
import { type EventTopic, parseEventTopic } from "./topics.ts";

/** What a device may publish, by its topic. */
export type Said =
  | ({ kind: "event" } & EventTopic)
  | { kind: "twin-get"; requestId: string }
  | { kind: "twin-report"; requestId: string }
  | { kind: "method-answer"; requestId: string; status: number };

/** What a device may hear; IoT Hub's names of the subscriptions. */
export type Heard = "messages" | "twin" | "desired" | "methods";

const REQUEST = String.raw`\/\?\$rid=([A-Za-z0-9_.:-]{1,128})`;
const TWIN_GET = new RegExp(String.raw`^\$iothub\/twin\/GET${REQUEST}$`);
const TWIN_REPORT = new RegExp(String.raw`^\$iothub\/twin\/PATCH\/properties\/reported${REQUEST}$`);
const METHOD_ANSWER = new RegExp(String.raw`^\$iothub\/methods\/res\/(-?[0-9]{1,9})${REQUEST}$`);

/** Undefined for everything that isn't this device's to say. */
export function parseSaid(topic: string, deviceId: string): Said | undefined {
  const event = parseEventTopic(topic, deviceId);
  if (event !== undefined) return { kind: "event", ...event };
  const get = TWIN_GET.exec(topic)?.[1];
  if (get !== undefined) return { kind: "twin-get", requestId: get };
  const report = TWIN_REPORT.exec(topic)?.[1];
  if (report !== undefined) return { kind: "twin-report", requestId: report };
  const [, status, requestId] = METHOD_ANSWER.exec(topic) ?? [];
  if (requestId === undefined) return undefined;
  return { kind: "method-answer", requestId, status: Number(status) };
}

/** Undefined for every topic filter that isn't this device's to hear; `#` or `+` never widens one. */
export function parseHeard(filter: string, deviceId: string): Heard | undefined {
  switch (filter) {
    case `devices/${deviceId}/messages/devicebound/#`:
      return "messages";
    case "$iothub/twin/res/#":
      return "twin";
    case "$iothub/twin/PATCH/properties/desired/#":
      return "desired";
    case "$iothub/methods/POST/#":
      return "methods";
    default:
      return undefined;
  }
}

export function messageTopic(deviceId: string, message: Pick<DeviceMessage, "system" | "properties">): string {
  const to = { "$.to": `/devices/${deviceId}/messages/devicebound` };
  const bag = Object.entries({ ...to, ...message.system, ...message.properties });
  const encoded = bag.map(([name, value]) => `${encodeURIComponent(name)}=${encodeURIComponent(value)}`);
  return `devices/${deviceId}/messages/devicebound/${encoded.join("&")}`;
}

export function twinAnswerTopic(status: number, requestId: string, version?: number): string {
  return `$iothub/twin/res/${status}/?$rid=${requestId}${version === undefined ? "" : `&$version=${version}`}`;
}

export const desiredTopic = (version: number): string => `$iothub/twin/PATCH/properties/desired/?$version=${version}`;

export const methodTopic = (name: string, requestId: string): string =>
  `$iothub/methods/POST/${name}/?$rid=${requestId}`;
