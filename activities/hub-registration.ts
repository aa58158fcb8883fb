import type { HubRegistrationActivities } from "../contracts/parties.ts";
import { workflowIds } from "../contracts/parties.ts";
import { utf8 } from "../lib/domain/bytes.ts";
import { CountersignError, errorCodeOf } from "../lib/domain/errors.ts";
import { sha256Hex } from "../lib/domain/hash.ts";
import { parseCertificate } from "../lib/pki/certificate.ts";
import { pemEncode } from "../lib/pki/pem.ts";
import { readCa, verifyCa, type HubAccess } from "../services/hub/management.ts";
import type { Acts } from "../services/ledger/acts.ts";
import type { Identity } from "../services/parties/identity.ts";
import { actCosigned, type Cosigned } from "../services/witness/release.ts";
import { findCaCertificate, findIntent, hubIntent, lastCeremony, setHubRegistration } from "../store/authority.ts";
import type { Db } from "../store/db.ts";
import { withFailures } from "./failures.ts";

export interface HubRegistrationDeps {
  readonly db: Db;
  readonly identity: Identity;
  readonly acts: Acts;
  readonly hub: HubAccess | undefined;
  /** what a registration waits for; absent: nobody witnesses this site's ledger */
  readonly cosigned?: Cosigned;
}

/** Registers this site's root at the hub: CAs only, devices need nothing. */
export function hubRegistrationActivities(deps: HubRegistrationDeps): HubRegistrationActivities {
  const { db, identity, acts } = deps;

  function hub(): HubAccess {
    if (deps.hub) return deps.hub;
    throw new CountersignError("usage", "this site has no hub in its configuration");
  }

  async function paper(name: string): Promise<{ root: Uint8Array; verification: Uint8Array; code: string }> {
    const ca = await findCaCertificate(db);
    const verification = (await findIntent(db, hubIntent(name)))?.result;
    if (ca?.role !== "root" || !verification) {
      throw new CountersignError(
        "not-found",
        `no ceremony signed a verification certificate for ${name}: run one with the hub's code`,
      );
    }
    const code = parseCertificate(verification).subject.cn ?? "";
    return { root: ca.certificate, verification, code };
  }

  /** The root's ceremony, cosigned by others: no hub trusts a root whose making could still be told differently. */
  async function witnessed(name: string): Promise<void> {
    const ceremony = await lastCeremony(db);
    if (ceremony?.actLeafHash == null) {
      throw new CountersignError("state-conflict", "the ceremony isn't recorded yet");
    }
    if (deps.cosigned === undefined) return;
    try {
      await actCosigned(db, deps.cosigned, ceremony.actLeafHash);
    } catch (error) {
      const code = errorCodeOf(error);
      if (code === "witnesses-missing") {
        await setHubRegistration(db, name, {
          state: "requested",
          refusal: { code, message: (error as Error).message },
        });
      }
      throw error;
    }
  }

  return withFailures<HubRegistrationActivities>({
    async proveCaToHub({ name }) {
      const { root, verification } = await paper(name);
      await witnessed(name);
      const caSha256 = sha256Hex(root);
      const pem = (der: Uint8Array): string => pemEncode("CERTIFICATE", der);
      try {
        await verifyCa(hub(), name, { ca: pem(root), verification: pem(verification) });
      } catch (error) {
        if (errorCodeOf(error) !== "already-exists") throw error;
        // An earlier attempt may have got through: what counts is whose certificate the hub has.
        if ((await readCa(hub(), name)).sha256 !== caSha256) throw error;
      }
      await setHubRegistration(db, name, { state: "verified", caSha256 });
      return { caSha256 };
    },

    async recordHubRegistration({ name }) {
      const { root, code } = await paper(name);
      const ceremony = await lastCeremony(db);
      if (ceremony?.actLeafHash == null)
        throw new CountersignError("state-conflict", "the ceremony isn't recorded yet");
      const act = await acts.recordSigned(
        {
          type: "hub-registered",
          workflowId: workflowIds.hub(name),
          stepKey: `registered/${sha256Hex(root)}`,
          subject: [{ name: identity.party, digest: { sha256: sha256Hex(parseCertificate(root).spki) } }],
          prev: [{ origin: identity.origin, leafHash: ceremony.actLeafHash }],
          fields: { hub: name, caSha256: sha256Hex(root), codeSha256: sha256Hex(utf8(code)) },
        },
        identity.act,
      );
      await setHubRegistration(db, name, { state: "registered", caSha256: sha256Hex(root) });
      return { leafHash: act.leafHash };
    },

    async refuseHubRegistration({ name, refusal }) {
      await setHubRegistration(db, name, { state: "refused", refusal });
    },
  });
}
