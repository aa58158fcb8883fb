import { parseCertificate } from "../../lib/pki/certificate.ts";
import { currentCrl, findCaCertificate, listOnlineCas } from "../../store/authority.ts";
import type { Db } from "../../store/db.ts";
import { listDelegations } from "../../store/delegations.ts";
import { findCurrentGrant } from "../../store/grants.ts";
import { crlName } from "./ca.ts";
import type { Identity } from "./identity.ts";

/** What this site's signing, or its children's, ends with. Devices' certificates aren't here: there are too many. */
export interface Expiring {
  readonly what: "ca" | "former-ca" | "grant" | "issuer" | "child-ca" | "child-grant" | "crl" | "infrastructure-ca";
  /** whose: a party, or a CA's name */
  readonly subject: string;
  /** RFC 3339 */
  readonly notAfter: string;
}

/** Everything that has an end, the first one first. */
export async function expiring(
  db: Db,
  identity: Pick<Identity, "party" | "infrastructure">,
  now = new Date(),
): Promise<Expiring[]> {
  const found: Expiring[] = [];
  const add = (what: Expiring["what"], subject: string, notAfter: Date): void => {
    found.push({ what, subject, notAfter: notAfter.toISOString() });
  };
  const { party, infrastructure } = identity;
  add("infrastructure-ca", party, parseCertificate(infrastructure.certificate).notAfter);
  const grant = await findCurrentGrant(db);
  if (grant) {
    const ca = parseCertificate(grant.certificate);
    add("ca", party, ca.notAfter);
    add("grant", party, new Date(grant.fields.notAfter));
    for (const der of grant.upstream) {
      const issuer = parseCertificate(der);
      add("issuer", issuer.subject.cn ?? "?", issuer.notAfter);
    }
  }
  const online = await listOnlineCas(db);
  for (const { keyId, certificate } of online.slice(0, -1)) {
    const { notAfter } = parseCertificate(certificate);
    // Its devices have ended with it, or are to be certified anew before.
    if (notAfter > now) add("former-ca", crlName(keyId), notAfter);
  }
  const present = await findCaCertificate(db);
  for (const { keyId } of online.length > 0 ? online : present ? [present] : []) {
    const crl = await currentCrl(db, crlName(keyId));
    if (crl) add("crl", crlName(keyId), crl.nextUpdate);
  }
  for (const { child, certificate, terms, state } of await listDelegations(db)) {
    if (state !== "accepted" || certificate === null || terms === null) continue;
    add("child-ca", child, parseCertificate(certificate).notAfter);
    add("child-grant", child, new Date(terms.notAfter));
  }
  return found.sort((a, b) => a.notAfter.localeCompare(b.notAfter));
}

/** Days before the end at which somebody is told, the last call first. */
export const ALERT_DAYS = [7, 14, 30] as const;

/** The alert that is due: the smallest of the days that are no longer left; 0 once it is over. */
export function alertOf({ notAfter }: Expiring, now: Date): number | undefined {
  const days = (Date.parse(notAfter) - now.getTime()) / 86_400_000;
  return days <= 0 ? 0 : ALERT_DAYS.find((limit) => days <= limit);
}
