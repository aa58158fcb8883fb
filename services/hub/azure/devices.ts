import { z } from "zod";
import { CountersignError } from "../../../lib/domain/errors.ts";
import type { DeviceRegistry, HubDeviceView } from "../registry.ts";
import { unreachable, type Rest, type RestAnswer } from "./rest.ts";

/** An identity as the service holds it. Fields unknown here are kept when it is written back: a PUT replaces it whole. */
const identity = z.looseObject({
  deviceId: z.string().min(1).max(128),
  etag: z.string().max(256).optional(),
  status: z.enum(["enabled", "disabled"]),
  authentication: z.looseObject({ type: z.string().max(64).optional() }).optional(),
});
type Identity = z.output<typeof identity>;

/** What the service writes itself. */
const READ_ONLY = [
  "etag",
  "generationId",
  "connectionState",
  "connectionStateUpdatedTime",
  "statusUpdatedTime",
  "lastActivityTime",
  "cloudToDeviceMessageCount",
];
const PLACE = "IoT Hub";
/** Whoever edits identities in between is let finish; after so many rounds the cut-off comes first. */
const ROUNDS = 3;

const fresh = (deviceId: string, status: HubDeviceView["state"]) => ({
  deviceId,
  status,
  authentication: { type: "certificateAuthority" },
});

/** An IoT Hub's device registry: devices known by certificates of its CAs. */
export function azureDevices(rest: Rest): DeviceRegistry {
  const at = (deviceId: string): string => `/devices/${encodeURIComponent(deviceId)}`;

  async function find(deviceId: string): Promise<Identity | undefined> {
    const answer = await rest({ method: "GET", path: at(deviceId) });
    return answer.status === 404 ? undefined : read(answer);
  }

  /** Undefined when it is there already. */
  async function make(deviceId: string, state: HubDeviceView["state"]): Promise<HubDeviceView | undefined> {
    const answer = await rest({ method: "PUT", path: at(deviceId), body: fresh(deviceId, state) });
    return answer.status === 409 || answer.status === 412 ? undefined : view(read(answer));
  }

  /** @param missing what becomes of a device that isn't there */
  async function set(
    deviceId: string,
    state: HubDeviceView["state"],
    missing: () => Promise<HubDeviceView | undefined>,
  ): Promise<HubDeviceView> {
    for (let round = 1; ; round++) {
      const found = await find(deviceId);
      if (found === undefined) {
        const made = await missing();
        if (made !== undefined) return made;
        continue;
      }
      if (found.status === state) return view(found);
      // Keeping a device out wins over whatever else is being changed about it.
      const ifMatch = round >= ROUNDS && state === "disabled" ? '"*"' : quoted(found.etag);
      const kept = Object.fromEntries(Object.entries(found).filter(([name]) => !READ_ONLY.includes(name)));
      const answer = await rest({ method: "PUT", path: at(deviceId), ifMatch, body: { ...kept, status: state } });
      if (answer.status < 300) return view(read(answer));
      if (round >= ROUNDS) throw new CountersignError("hub-busy", `${PLACE}: ${deviceId} is being changed by others`);
    }
  }

  return {
    async create(deviceId) {
      const made = await make(deviceId, "enabled");
      if (made !== undefined) return made;
      const found = await find(deviceId);
      if (found === undefined) throw new CountersignError("hub-busy", `${PLACE}: ${deviceId} was removed meanwhile`);
      if (found.authentication?.type === "certificateAuthority") return view(found);
      const type = found.authentication?.type ?? "?";
      throw new CountersignError("already-exists", `${PLACE} has a device ${deviceId} with authentication ${type}`);
    },

    async show(deviceId) {
      const found = await find(deviceId);
      return found && view(found);
    },

    // One that hasn't come yet must not come later either.
    disable: (deviceId) => set(deviceId, "disabled", () => make(deviceId, "disabled")),

    enable: (deviceId) =>
      set(deviceId, "enabled", () => {
        throw new CountersignError("not-found", `${PLACE} has no device ${deviceId}`);
      }),

    async remove(deviceId) {
      const answer = await rest({ method: "DELETE", path: at(deviceId), ifMatch: '"*"' });
      if (answer.status === 412 || answer.status === 409) {
        throw new CountersignError("hub-busy", `${PLACE}: ${deviceId} was changed meanwhile`);
      }
      return answer.status !== 404;
    },
  };

  function read(answer: RestAnswer): Identity {
    if (answer.status >= 300) {
      throw new CountersignError("hub-busy", `${PLACE}: the device was changed meanwhile (${answer.status})`);
    }
    const parsed = identity.safeParse(answer.body);
    if (!parsed.success) throw unreachable(PLACE, "its answer isn't a device's identity");
    return parsed.data;
  }
}

/** The registry gives its tags bare and takes them quoted. */
function quoted(etag: string | undefined): string {
  if (etag === undefined) return '"*"';
  return etag.startsWith('"') ? etag : `"${etag}"`;
}

function view({ deviceId, status }: Identity): HubDeviceView {
  return { deviceId, state: status };
}
