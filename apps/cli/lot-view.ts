import { InvalidArgumentError } from "commander";
import { SiteClient } from "./site-client.ts";

/** A lot as the gateway shows it. */
export interface LotView {
  readonly id: string;
  readonly state: string;
  readonly builder: string;
  readonly issuer: string;
  readonly slots: number;
  readonly profile: string;
  readonly counts?: Readonly<Record<string, number>>;
}

/** Opens a client for one command and closes it. */
export async function withSite(site: string, work: (client: SiteClient) => Promise<void>): Promise<void> {
  const client = await SiteClient.open(site);
  try {
    await work(client);
  } finally {
    client.close();
  }
}

export function wholeNumber(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value)) throw new InvalidArgumentError("expected a whole number");
  return value;
}
