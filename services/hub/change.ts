import { CountersignError } from "../../lib/domain/errors.ts";
import type { EnrollmentRegistry, HubRegistry } from "./registry.ts";

/** What an operator changes at a hub, beside registering a CA there. */
export type HubEdit =
  | { readonly kind: "create-device" | "disable-device" | "enable-device" | "remove-device"; readonly subject: string }
  | { readonly kind: "remove-ca"; readonly subject: string }
  | { readonly kind: "put-enrollment"; readonly subject: string; readonly cas: readonly string[] }
  | { readonly kind: "enable-enrollment" | "disable-enrollment" | "remove-enrollment"; readonly subject: string };

/**
 * Makes one change; made again, it finds itself done.
 * @throws CountersignError `usage` (no provisioning there), and those of the registry
 */
export async function editHub(hub: HubRegistry, edit: HubEdit): Promise<Record<string, string | boolean | string[]>> {
  const { devices, cas } = hub;
  const { kind, subject } = edit;
  switch (kind) {
    case "create-device":
      return { ...(await devices.create(subject)) };
    case "disable-device":
      return { ...(await devices.disable(subject)) };
    case "enable-device":
      return { ...(await devices.enable(subject)) };
    case "remove-device":
      return { deviceId: subject, removed: await devices.remove(subject) };
    case "remove-ca": {
      let removed = false;
      for (const place of cas) removed = (await place.remove(subject)) || removed;
      return { name: subject, removed };
    }
    case "put-enrollment": {
      const group = await provisioning(hub).put(subject, edit.cas);
      return { ...group, cas: [...group.cas] };
    }
    case "enable-enrollment":
    case "disable-enrollment": {
      const state = kind === "enable-enrollment" ? "enabled" : "disabled";
      const group = await provisioning(hub).setState(subject, state);
      return { ...group, cas: [...group.cas] };
    }
    case "remove-enrollment":
      return { name: subject, removed: await provisioning(hub).remove(subject) };
  }
}

function provisioning({ kind, enrollments }: HubRegistry): EnrollmentRegistry {
  if (enrollments) return enrollments;
  const why = kind === "azure" ? "has no provisioning service in this site's configuration" : "sets its own up itself";
  throw new CountersignError("usage", `this hub ${why}`);
}
