import type { CaKey } from "../../hsm/index.ts";
import { equalBytes } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { parseCertificate, type Certificate } from "../../lib/pki/certificate.ts";
import { keyId } from "../../lib/pki/spki.ts";
import type { CaToken } from "../reconcile/accounted.ts";
import { caLabel, listOnlineCas } from "../../store/authority.ts";
import type { Db, Queryable } from "../../store/db.ts";
import { keepCrl } from "./crl.ts";

/** This site's online CA has one key after another; those before the present one sign CRLs until their devices are gone. */

/**
 * The token's key that this public key is of.
 * @throws CountersignError `hsm-key-missing` when the token holds another one, or none, where it should be
 */
export async function caKeyOf(q: Queryable, token: Pick<CaToken, "caKey">, spki: Uint8Array): Promise<CaKey> {
  const label = await caLabel(q, keyId(spki));
  const key = await token.caKey(label);
  if (equalBytes(key.spki, spki)) return key;
  throw new CountersignError(
    "hsm-key-missing",
    `the CA's token holds another key as "${label}" than the CA certificate is for: bring the right token`,
  );
}

/** The CA's certificates by key, the present one last, without those that have ended: nothing under them is valid. */
export async function ownCas(q: Queryable, now: Date): Promise<Certificate[]> {
  const all = (await listOnlineCas(q)).map(({ certificate }) => parseCertificate(certificate));
  return all.filter(({ notAfter }) => notAfter > now);
}

/** Makes the next CRL of each of the CA's keys whose time has come, or that doesn't list what is recorded. */
export async function keepCrls(db: Db, token: Pick<CaToken, "caKey">, now: Date): Promise<void> {
  for (const ca of await ownCas(db, now)) await keepCrl(db, await caKeyOf(db, token, ca.spki), ca, { now });
}
