import type { HubRegistry } from "../registry.ts";
import { azureBlocks } from "./blocks.ts";
import { azureCertificates } from "./certificates.ts";
import { azureDevices } from "./devices.ts";
import { azureEnrollments } from "./enrollments.ts";
import { azureAgent, restClient, type Rest, type RestService } from "./rest.ts";
import { readSecret, sharedAccessSignature } from "./sas.ts";
import type { AzureHubSettings } from "./settings.ts";
import { bearerTokens } from "./token.ts";

/** The interfaces' versions, those of the public SDKs that they are compared with. */
const API = {
  hubManagement: "2023-06-30",
  provisioningManagement: "2022-02-05",
  devices: "2021-04-12",
  provisioning: "2021-10-01",
} as const;

/** Makes the way to one service; what a dry run replaces. */
export type RestMaker = (service: RestService) => Rest;

/** @throws CountersignError `component-missing` when `caFile` can't be read; secrets are read when they are used */
export function azureHub(settings: AzureHubSettings, make?: RestMaker): HubRegistry {
  const agent = azureAgent(settings.caFile === undefined ? undefined : readSecret(settings.caFile));
  const service: RestMaker = make ?? ((one) => restClient(one, agent));
  const { subscription, resourceGroup, management, iotHub, provisioning } = settings;
  const bearer = bearerTokens(settings, agent);
  const group = `/subscriptions/${subscription}/resourceGroups/${encodeURIComponent(resourceGroup)}/providers/Microsoft.Devices`;
  const resourceManager = (apiVersion: string): Rest =>
    service({ name: "Azure Resource Manager", url: management, apiVersion, authorization: bearer });
  const signed = (name: string, url: string, apiVersion: string, access: { policy: string; keyFile: string }): Rest =>
    service({
      name,
      url,
      apiVersion,
      authorization: async () =>
        sharedAccessSignature(new URL(url).hostname, access.policy, readSecret(access.keyFile)),
    });

  const hubUrl = iotHub.url ?? `https://${iotHub.name}.azure-devices.net`;
  const cas = [
    azureCertificates(resourceManager(API.hubManagement), `${group}/IotHubs/${iotHub.name}`, `IoT Hub ${iotHub.name}`),
  ];
  const devices = azureDevices(signed(`IoT Hub ${iotHub.name}`, hubUrl, API.devices, iotHub.access));
  if (provisioning === undefined) return { kind: "azure", cas, devices };

  const place = `provisioning service ${provisioning.name}`;
  const base = `${group}/provisioningServices/${provisioning.name}`;
  cas.push(azureCertificates(resourceManager(API.provisioningManagement), base, place));
  const url = provisioning.url ?? `https://${provisioning.name}.azure-devices-provisioning.net`;
  const registrations = signed(place, url, API.provisioning, provisioning.access);
  const enrollments = azureEnrollments(registrations);
  return { kind: "azure", cas, devices, enrollments, blocks: azureBlocks(registrations) };
}
