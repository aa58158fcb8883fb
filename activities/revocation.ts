import type { RevocationActivities } from "../contracts/parties.ts";
import { isCountersignError } from "../lib/domain/errors.ts";
import { parseCertificate } from "../lib/pki/certificate.ts";
import { keyId } from "../lib/pki/spki.ts";
import { blockCa, handCrl, unblockCa, type HubAccess } from "../services/hub/management.ts";
import { crlName } from "../services/parties/ca.ts";
import { keepCrl } from "../services/parties/crl.ts";
import { recordRevocations, type RecordingContext } from "../services/parties/revoke.ts";
import type { CaToken } from "../services/reconcile/accounted.ts";
import { currentCrl } from "../store/authority.ts";
import { currentGrant } from "../store/grants.ts";
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

  /** True when it was told, or there is no use in telling it. */
  async function told(url: string, tell: () => Promise<unknown>): Promise<boolean> {
    try {
      await tell();
      return true;
    } catch (error) {
      onFault(url, error);
      return isCountersignError(error) && error.kind !== "unavailable" && error.kind !== "internal";
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
      const ca = parseCertificate((await currentGrant(db)).certificate);
      await keepCrl(db, await caToken.caKey("ca"), ca, { now: deps.now?.() ?? new Date() });
    },

    async tellHubs() {
      const steps = await untoldSteps(db, 10_000);
      if (caToken === undefined) {
        for (const step of steps) {
          if (!(await block(step))) return { left: true };
          await markTold(db, [step.id]);
        }
        return { left: false };
      }
      const published = steps.filter(({ crlNumber }) => crlNumber !== null);
      const keys = [...new Set(published.map(({ issuerKeyId }) => issuerKeyId))];
      let all = true;
      for (const key of keys) {
        const crl = await currentCrl(db, crlName(key));
        if (crl === undefined) continue;
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
