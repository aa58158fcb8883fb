import type { Refusal } from "./parties.ts";

/**
 * What crosses Temporal when a site drives its hubs. Names only: certificates stay in the site's database, credentials
 * in their files. Every activity is idempotent; one whose answer was lost finds what it did.
 */

export const hubWorkflowIds = {
  /** the registration of this site's CA at a hub, and of every later certificate of it */
  line: (hub: string, line: string) => `hub/${hub}/${line}`,
  /** what the site revokes, brought to a hub */
  revocations: (hub: string) => `hub-revocations/${hub}`,
  change: (hub: string, { kind, subject }: { kind: string; subject: string }) => `hub-change/${hub}/${kind}/${subject}`,
};

/** The embedded hub's name among a site's hubs. */
export const EMBEDDED_HUB = "embedded";

export type HubChange =
  | { kind: "create-device" | "disable-device" | "enable-device" | "remove-device"; subject: string }
  /** the line's name, or that of one of its certificates */
  | { kind: "remove-ca"; subject: string }
  /** an offline root: its codes are fetched; what a ceremony has signed of them is handed in */
  | { kind: "offer-ca" | "prove-ca"; subject: string }
  /** lets the devices of a line be provisioned */
  | { kind: "put-enrollment"; subject: string; line: string }
  | { kind: "enable-enrollment" | "disable-enrollment" | "remove-enrollment"; subject: string };

/** What the hub holds afterwards, for people. */
export type HubChanged = Record<string, string | boolean | string[]>;

export interface HubLineActivities {
  /** Uploads the CA's present certificate wherever the hub keeps some, and has the CA's key sign the codes. */
  registerCa(input: { hub: string; line: string }): Promise<{ name: string; caSha256: string }>;
  /** Has the line's enrollment groups take the new certificate beside the last one. */
  followEnrollments(input: { hub: string; line: string }): Promise<void>;
  /** Records a `hub-registered` act for every place. */
  recordCaRegistration(input: { hub: string; name: string }): Promise<void>;
  refuseCaRegistration(input: { hub: string; line: string; refusal: Refusal }): Promise<void>;
}

export interface HubRevocationActivities {
  /**
   * Tells a hub that follows no CRL of revocations that are recorded; `left`: there are more. What the hub refuses is
   * noted, and tried again by a later run.
   */
  tellHubRevocations(input: { hub: string }): Promise<{ left: boolean }>;
}

export interface HubChangeActivities {
  changeHub(input: { hub: string; change: HubChange }): Promise<HubChanged>;
}
