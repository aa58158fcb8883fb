import { CountersignError } from "../../lib/domain/errors.ts";
import type { Certificate } from "../../lib/pki/certificate.ts";
import {
  type DeviceFacts,
  fieldsOfQuery,
  type GroupField,
  type GroupQuery,
  matchesGroup,
  parseGroupQuery,
} from "../../lib/records/group-query.ts";
import type { HubDevice } from "../../store/hub.ts";
import type { HubGroup, HubScope } from "../../store/hub-groups.ts";

export const SCOPES: readonly HubScope[] = ["telemetry", "messages", "twin", "methods"];

/** What an uploaded chain says. Lots and installations are in ledgers, which the hub doesn't read. */
const OF_THE_CHAIN: ReadonlySet<GroupField> = new Set(["device", "ca", "issuer", "under", "serial", "expires"]);
const OF_THE_REGISTRY: ReadonlySet<GroupField> = new Set([...OF_THE_CHAIN, "state", "connected"]);

export interface KnownGroup extends HubGroup {
  readonly parsed: GroupQuery;
}

/** @throws CountersignError `input-invalid`, also for what isn't known of a device when it connects */
export function parseChainQuery(text: string): GroupQuery {
  return limited(text, OF_THE_CHAIN);
}

/** For looking at devices. @throws CountersignError `input-invalid` */
export function parseRegistryQuery(text: string): GroupQuery {
  return limited(text, OF_THE_REGISTRY);
}

function limited(text: string, known: ReadonlySet<GroupField>): GroupQuery {
  const query = parseGroupQuery(text);
  const unknown = [...fieldsOfQuery(query)].filter((field) => !known.has(field));
  if (unknown.length === 0) return query;
  const message = `the hub doesn't know ${unknown.join(", ")} of a device; it knows ${[...known].join(", ")}`;
  throw new CountersignError("input-invalid", `${message}. \`countersign group\` asks the ledgers`);
}

/** @param path validated, leaf first, the registered CA last */
export function factsOfPath(path: readonly Certificate[], ca: string): DeviceFacts {
  const [leaf, ...above] = path;
  const under = above.flatMap((one) => one.subject.cn ?? []);
  return {
    device: leaf?.subject.cn,
    ca,
    issuer: above[0]?.subject.cn,
    under,
    serial: leaf?.serial,
    expires: leaf?.notAfter.getTime(),
  };
}

export function factsOfDevice(device: HubDevice): DeviceFacts {
  const [leaf, ...above] = device.chain ?? [];
  return {
    device: device.deviceId,
    ca: device.caName ?? undefined,
    issuer: above[0]?.commonName ?? undefined,
    under: above.flatMap((one) => one.commonName ?? []),
    serial: leaf?.serial,
    expires: leaf === undefined ? undefined : Date.parse(leaf.notAfter),
    state: device.state,
    connected: device.lastConnectedAt?.getTime(),
  };
}

export function groupsOf(groups: readonly KnownGroup[], facts: DeviceFacts): KnownGroup[] {
  return groups.filter((group) => matchesGroup(group.parsed, facts));
}

/** What all of a device's groups allow it. */
export function isAllowed(groups: readonly HubGroup[], scope: HubScope): boolean {
  return groups.every(({ scopes }) => scopes === null || scopes.includes(scope));
}

/** Which of a hub's services a topic, or a topic filter, belongs to. */
export function scopeOfTopic(topic: string): HubScope {
  if (topic.startsWith("$iothub/methods/")) return "methods";
  if (topic.startsWith("$iothub/twin/")) return "twin";
  return /^devices\/[^/]*\/messages\/devicebound\//.test(topic) ? "messages" : "telemetry";
}
