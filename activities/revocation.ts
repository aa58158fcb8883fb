import type { RevocationActivities } from "../contracts/parties.ts";
import { parseCertificate } from "../lib/pki/certificate.ts";
import { keyId } from "../lib/pki/spki.ts";
import { blockCa, handCrl, MAX_HANDED_OCTETS, unblockCa, type HubAccess } from "../services/hub/management.ts";
import { crlName } from "../services/parties/ca.ts";
import { keepCrls } from "../services/parties/own-cas.ts";
import { recordRevocations, type RecordingContext } from "../services/parties/revoke.ts";
import type { CaToken } from "../services/reconcile/accounted.ts";
import { currentCrl } from "../store/authority.ts";
import { markTold, unpublishedKeys, untoldSteps, type Revocation } from "../store/revocations.ts";
import { withFailures } from "./failures.ts";

export interface RevocationDeps extends RecordingContext {
  /** absent: the CA is offline, and its next CRL a ceremony's */
  readonly caToken?: CaToken | undefined;
  /** the hub that this site is an operator of: what an offline CA takes back is blocked there */
  readonly hub?: HubAccess | undefined;
  /** hubs that are handed the online CA's CRL */
  readonly notify: readonly Pick<HubAccess, "url" | "ca">[];
  readonly onFault: (hub: string, error: unknown) => void;
  readonly now?: () => Date;
}

const CHUNK = 256;

export function revocationActivities(deps: RevocationDeps): RevocationActivities {
  const { db, caToken, hub, notify, onFault } = deps;

  /** Whether the hub has taken it. What it refuses is told again as well: its clock is put right, a certificate renewed. */
  async function told(url: string, tell: () => Promise<unknown>): Promise<boolean> {
    try {
      await tell();
      return true;
    } catch (error) {
      onFault(url, error);
      return false;
    }
  }

  /** An offline CA can't say it in a CRL within a second: its party, as the hub's operator, has the key kept out. */
  async function block(step: Revocation): Promise<boolean> {
    if (hub === undefined || step.target !== "ca") return true;
    if (step.effect === "lift")
      return told(hub.url, () => unblockCa(hub, keyId(parseCertificate(step.certificate).spki)));
    return told(hub.url, () => blockCa(hub, step.certificate, `revoked by its issuer: ${step.reason}`));
  }

  return withFailures<RevocationActivities>({
    async recordRevocations() {
      return { left: (await recordRevocations(deps, CHUNK)) === CHUNK };
    },

    async publishRevocations() {
      if (caToken === undefined || (await unpublishedKeys(db)).length === 0) return;
      await keepCrls(db, caToken, deps.now?.() ?? new Date());
    },

    async tellHubs() {
      const steps = await untoldSteps(db, 10_000);
      if (caToken === undefined) {
        // Of one key in order: a lift that overtook its hold would be undone by it.
        const waiting = new Set<string>();
        for (const step of steps) {
          if (!waiting.has(step.subjectKeyId) && (await block(step))) await markTold(db, [step.id]);
          else waiting.add(step.subjectKeyId);
        }
        return { left: waiting.size > 0 };
      }
      const published = steps.filter(({ crlNumber }) => crlNumber !== null);
      const keys = [...new Set(published.map(({ issuerKeyId }) => issuerKeyId))];
      let all = true;
      for (const key of keys) {
        const crl = await currentCrl(db, crlName(key));
        if (crl === undefined) continue;
        // A longer list is the hub's to fetch, as it does by itself.
        if (crl.der.length > MAX_HANDED_OCTETS) continue;
        const done = await Promise.all(notify.map((one) => told(one.url, () => handCrl(one, crl.der))));
        if (done.includes(false)) all = false;
      }
      if (all)
        await markTold(
          db,
          published.map(({ id }) => id),
        );
      return { left: !all };
    },
  });
}
