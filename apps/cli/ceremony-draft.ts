import { stringify } from "yaml";
import { ceremonyDocument, type CeremonyDocument } from "../../lib/records/ceremony.ts";
import type { GrantTerms } from "../../lib/records/grant.ts";
import type { SiteClient } from "./site-client.ts";

/** Writes a ceremony's document from what waits for it: the children that joined, and the hub's code. */

export interface DraftOptions {
  /** the hub's verification code for this root, under the name it is registered by */
  hub?: { name: string; code: string };
  /** by party; a child without terms gets {@link EXAMPLE_TERMS}, for a person to change */
  grants?: Readonly<Record<string, GrantTerms>>;
  key?: CeremonyDocument["root"]["key"];
  commonName?: string;
  notAfter?: string;
  crlMonths?: number;
}

interface SiteView {
  party: string;
  name: string;
  organization: string;
}
interface Pending {
  child: string;
  state: string;
  csrSha256: string;
}

const NO_EXPIRY = "9999-12-31T23:59:59.000Z";
const YEAR_MS = 365 * 86_400_000;

const EXAMPLE_TERMS = (): GrantTerms => ({
  idPrefixes: ["dev-"],
  profiles: ["idevid", "ldevid"],
  quota: 1_000_000,
  notBefore: new Date().toISOString(),
  notAfter: new Date(Date.now() + 5 * YEAR_MS).toISOString(),
  pathLen: 1,
  depth: 1,
  mayBuild: true,
  caProfile: "intermediate-embedded",
});

const HEAD = `# A root ceremony: everything that the root key will sign. Read it with the others, change what isn't meant, then
#   countersign ceremony run FILE
# mayBuild: the party may open lots as their builder, and let its own children build.
# Each csrSha256 must be the one that the child's own people read to you.
`;

/** @param site the manufacturer's, as operator */
export async function draftCeremony(site: SiteClient, options: DraftOptions = {}): Promise<string> {
  const [view, { pending }] = await Promise.all([
    site.get<SiteView>("/api/v1/site"),
    site.get<{ pending: Pending[] }>("/api/v1/joins"),
  ]);
  const document = ceremonyDocument.parse({
    schema: "countersign/ceremony/v1",
    party: view.party,
    root: {
      commonName: options.commonName ?? `${view.name} Root`,
      organization: view.organization,
      key: options.key ?? "ec-p256",
      notAfter: options.notAfter ?? NO_EXPIRY,
    },
    crl: { months: options.crlMonths ?? 12 },
    ...(options.hub === undefined ? {} : { hub: options.hub }),
    delegations: pending
      .filter(({ state }) => state === "joined" || state === "refused")
      .map(({ child, csrSha256 }) => ({ to: child, csrSha256, grant: options.grants?.[child] ?? EXAMPLE_TERMS() })),
  });
  return `${HEAD}${stringify(document)}`;
}
