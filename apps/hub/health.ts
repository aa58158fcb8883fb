import type { Db } from "../../store/db.ts";
import { hubCounts } from "../../store/hub.ts";
import { counter, exposition, gauge, processMetrics, single } from "../http/metrics.ts";
import { type ComponentState, probed, withinTime } from "../http/readiness.ts";
import type { Registry } from "./registry.ts";
import type { TelemetryWriter } from "./telemetry.ts";

/** A door that devices come through. */
interface Door {
  readonly connected: number;
  /** since the start, by reason */
  readonly refusals: Readonly<Record<string, number>>;
}

export interface HubHealthParts {
  readonly db: Db;
  readonly registry: Pick<Registry, "loadedAt" | "staleCrls">;
  readonly telemetry: Pick<TelemetryWriter, "waiting" | "full" | "written">;
  /** by protocol */
  readonly doors: Readonly<Record<string, Door>>;
}

/** It is read every ten seconds, and whenever something changes. */
const REGISTRY_OLD_MS = 45_000;

/** What the hub stands on. Never throws: what doesn't answer in time is down. */
export async function hubComponents({ db, registry, telemetry }: HubHealthParts): Promise<ComponentState[]> {
  const since = new Date(registry.loadedAt).toISOString();
  const old = Date.now() - registry.loadedAt > REGISTRY_OLD_MS;
  return [
    await probed("database", () => db.query("SELECT 1")),
    // What was known holds: devices are let in and kept out by it.
    old
      ? { name: "registry", state: "degraded", code: "component-unreachable", since }
      : { name: "registry", state: "up" },
    telemetry.full
      ? { name: "telemetry", state: "down", code: "component-unreachable" }
      : { name: "telemetry", state: "up" },
    registry.staleCrls(new Date()) > 0
      ? { name: "revocation lists", state: "degraded", code: "hub-crl-stale" }
      : { name: "revocation lists", state: "up" },
  ];
}

/** What the database knows is left out while it doesn't answer. No device, no address. */
export async function hubMetrics({ db, registry, telemetry, doors }: HubHealthParts): Promise<string> {
  const counts = await withinTime(hubCounts(db)).catch(() => undefined);
  const each = Object.entries(doors);
  return exposition([
    gauge(
      "hub_connections",
      "Devices that are connected to this process.",
      each.map(([protocol, { connected }]) => ({ labels: { protocol }, value: connected })),
    ),
    counter(
      "hub_refusals",
      "Connections and messages that were refused.",
      each.flatMap(([protocol, { refusals }]) =>
        Object.entries(refusals).map(([reason, value]) => ({ labels: { protocol, reason }, value })),
      ),
    ),
    counter("hub_telemetry_stored", "Telemetry messages that this process stored.", [{ value: telemetry.written }]),
    single("hub_telemetry_waiting", "Telemetry messages that wait for the database.", telemetry.waiting),
    single("hub_registry_loaded_seconds", "When the registry was last read, Unix time.", registry.loadedAt / 1000),
    single("hub_crls_stale", "Revocation lists that have run out.", registry.staleCrls(new Date())),
    single("database_up", "1 when the database answered for these metrics.", counts === undefined ? 0 : 1),
    ...(counts === undefined
      ? []
      : [
          single("hub_cas", "Registered CAs.", counts.cas),
          single("hub_sightings_open", "Certificates seen that no site has answered for.", counts.sightingsOpen),
        ]),
    ...processMetrics("the hub's process"),
  ]);
}
