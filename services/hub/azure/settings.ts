import { z } from "zod";

/**
 * An Azure IoT Hub, with or without a Device Provisioning Service, as `site.json` describes it. It holds no secret:
 * whatever is secret is named by its file.
 */

const path = z.string().min(1).max(4096);
const guid = z.string().regex(/^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$/, "expected a GUID");
const resource = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9-]{1,61}[A-Za-z0-9]$/, "expected the name of an Azure resource");
const https = z
  .url({ protocol: /^https$/ })
  .refine((text) => new URL(text).pathname === "/", "expected https://HOST[:PORT] without a path");

/** A shared access policy: its name, and the file that holds its key (base64, as the portal shows it). */
const policy = (name: string) =>
  z.strictObject({
    policy: z
      .string()
      .regex(/^[A-Za-z0-9._-]{1,64}$/)
      .default(name),
    keyFile: path,
  });

export const azureHubSettings = z.strictObject({
  kind: z.literal("azure"),
  subscription: guid,
  resourceGroup: z.string().regex(/^[A-Za-z0-9_().-]{1,89}[A-Za-z0-9_()-]$/, "expected the name of a resource group"),
  /** the service principal that may write the certificates of both resources */
  principal: z
    .strictObject({
      tenant: guid,
      clientId: guid,
      secretFile: path.optional(),
      /** an RSA key's PEM and its certificate's, instead of a secret */
      certificateFile: path.optional(),
      keyFile: path.optional(),
    })
    .refine(
      (p) => (p.secretFile === undefined) === (p.certificateFile !== undefined && p.keyFile !== undefined),
      "expected secretFile, or certificateFile and keyFile",
    ),
  iotHub: z.strictObject({
    name: resource,
    /** default: the hub's name in azure-devices.net */
    url: https.optional(),
    /** may write the device registry */
    access: policy("registryReadWrite"),
  }),
  provisioning: z
    .strictObject({
      name: resource,
      /** default: the service's name in azure-devices-provisioning.net */
      url: https.optional(),
      /** may write enrollments */
      access: policy("provisioningserviceowner"),
    })
    .optional(),
  /** other than in Azure's public cloud */
  management: https.default("https://management.azure.com"),
  login: https.default("https://login.microsoftonline.com"),
  /** PEM: the only CAs that these servers' certificates are checked against. Left out: those of Node. */
  caFile: path.optional(),
});
export type AzureHubSettings = z.output<typeof azureHubSettings>;

/** Paths made absolute. */
export function resolveAzureHub(settings: AzureHubSettings, at: (path: string) => string): AzureHubSettings {
  const files = <T extends object>(part: T): T =>
    Object.fromEntries(
      Object.entries(part).map(([name, value]) => [name, name.endsWith("File") && value ? at(String(value)) : value]),
    ) as T;
  const { principal, iotHub, provisioning } = settings;
  return {
    ...files(settings),
    principal: files(principal),
    iotHub: { ...iotHub, access: files(iotHub.access) },
    ...(provisioning === undefined ? {} : { provisioning: { ...provisioning, access: files(provisioning.access) } }),
  };
}
