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
import type { Custody } from "../../store/hub-custody.ts";
import type { HubDevice } from "../../store/hub-devices.ts";
import type { HubGroup, HubScope } from "../../store/hub-groups.ts";

export const SCOPES: readonly HubScope[] = ["telemetry", "messages", "twin", "methods"];

/** What a verified passport says, beside what the uploaded chain does. */
const OF_CUSTODY = [
  ...(["lot", "builder", "installer", "technician", "profile"] as const),
  ...(["built", "certified", "injected", "installed"] as const),
];
/** Under a passport's names, parties are above a device; under the chain's, CAs are. */
const ASKS_CUSTODY: ReadonlySet<GroupField> = new Set([...OF_CUSTODY, "under"]);

export interface KnownGroup extends HubGroup {
  readonly parsed: GroupQuery;
}

/**
 * For what a device may: by what is known of it when it connects.
 * @throws CountersignError `input-invalid`, also for what may change while it is connected
 */
export function parsePolicyQuery(text: string): GroupQuery {
  const query = parseGroupQuery(text);
  const unfit = [...fieldsOfQuery(query)].filter((field) => field === "state" || field === "connected");
  if (unfit.length === 0) return query;
  const message = `${unfit.join(" and ")} can be asked for (\`hub groups ask\`), but no group's terms hang on it`;
  throw new CountersignError("input-invalid", message);
}

export function asksCustody(query: GroupQuery): boolean {
  return [...fieldsOfQuery(query)].some((field) => ASKS_CUSTODY.has(field));
}

/**
 * What chain and passport say together: issuer, serial and end are those of the certificate it came with.
 * @param key of the device, as its chain or the hub's record has it
 */
export function withCustody(ofChain: DeviceFacts, key: string | undefined, custody: Custody | undefined): DeviceFacts {
  if (custody === undefined || custody.keySha256 !== key) return ofChain;
  const known = Object.fromEntries(OF_CUSTODY.map((field) => [field, custody.facts[field]])) as DeviceFacts;
  return { ...known, ...ofChain, under: [...(ofChain.under ?? []), ...(custody.facts.under ?? [])] };
}

/**
 * @param path validated, leaf first, the registered CA last
 * @param ca its lineage: no group ends because a CA was renewed
 */
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
    ca: device.lineage ?? undefined,
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
