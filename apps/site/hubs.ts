import { readFileSync } from "node:fs";
import { EMBEDDED_HUB } from "../../contracts/hubs.ts";
import { azureHub } from "../../services/hub/azure/hub.ts";
import { dryRun, type PlannedRequest } from "../../services/hub/azure/dry-run.ts";
import { embeddedHub } from "../../services/hub/embedded.ts";
import type { HubAccess } from "../../services/hub/management.ts";
import type { HubRegistry } from "../../services/hub/registry.ts";
import type { SiteConfig } from "./config.ts";

export function hubAccess({ hub }: Pick<SiteConfig, "hub">): HubAccess | undefined {
  if (hub === undefined) return undefined;
  const [ca, cert, key] = [hub.caFile, hub.certFile, hub.keyFile].map((file) => readFileSync(file, "utf8"));
  return { url: hub.url, ca: ca ?? "", cert: cert ?? "", key: key ?? "" };
}

/** The hubs of a site's configuration, by name. @throws CountersignError `component-missing` */
export function siteHubs(config: Pick<SiteConfig, "hub" | "hubs">): ReadonlyMap<string, HubRegistry> {
  const access = hubAccess(config);
  const own: [string, HubRegistry][] = access === undefined ? [] : [[EMBEDDED_HUB, embeddedHub(access)]];
  return new Map([...own, ...Object.entries(config.hubs).map(([name, one]) => [name, azureHub(one)] as const)]);
}

/** The same hub, sending nothing: what it would send is noted. Undefined where there is nothing to be noted. */
export function plannedHub(
  config: Pick<SiteConfig, "hubs">,
  name: string,
): { hub: HubRegistry; requests: readonly PlannedRequest[] } | undefined {
  const settings = config.hubs[name];
  if (settings === undefined) return undefined;
  const { make, requests } = dryRun();
  return { hub: azureHub(settings, make), requests };
}
