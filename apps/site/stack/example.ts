import type { SiteConfig } from "../config.ts";

/** The example parties of `npm start`: a manufacturer, a factory, a technician. */
export interface ExampleParty {
  readonly id: string;
  readonly name: string;
  readonly role: SiteConfig["role"];
  readonly parent: string | null;
  /** as `hsm.processes` of its configuration; none unless given */
  readonly issuingProcesses?: number;
}

export const PARTIES: readonly ExampleParty[] = [
  { id: "company-x", name: "Company-X", role: "manufacturer", parent: null },
  { id: "factory-y", name: "Factory-Y", role: "factory", parent: "company-x" },
  { id: "technician-z", name: "Technician-Z", role: "technician", parent: "factory-y" },
];

export const HUB_OPERATOR = "company-x";
