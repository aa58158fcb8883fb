import type { DelegationActivities } from "../contracts/parties.ts";
import { workflowIds } from "../contracts/parties.ts";
import { nodeVerify } from "../hsm/index.ts";
import { fromBase64, fromHex, toBase64 } from "../lib/domain/bytes.ts";
import { CountersignError } from "../lib/domain/errors.ts";
import { sha256Hex } from "../lib/domain/hash.ts";
import { parseCertificate } from "../lib/pki/certificate.ts";
import { grantedKey } from "../lib/records/grant.ts";
import type { ActRef } from "../lib/records/primitives.ts";
import { parseEntry } from "../lib/records/statement.ts";
import type { Acts, RecordedAct } from "../services/ledger/acts.ts";
import {
  delegationIntent,
  grantFields,
  lockStanding,
  onlineIssuer,
  prepareChild,
  signChild,
} from "../services/parties/delegate.ts";
import { readBody } from "../services/parties/envelope.ts";
import type { Identity } from "../services/parties/identity.ts";
import { enqueue } from "../services/parties/outbox.ts";
import { caKeyOf } from "../services/parties/own-cas.ts";
import { author, openSignedAct } from "../services/parties/signed-act.ts";
import type { CaToken } from "../services/reconcile/accounted.ts";
import { findCaCertificate, lastCeremony } from "../store/authority.ts";
import { inTransaction, type Db } from "../store/db.ts";
import {
  getDelegation,
  refuseDelegation,
  storeAcceptance,
  storeDelegationAct,
  type Delegation,
} from "../store/delegations.ts";
import { currentGrant, findCurrentGrant } from "../store/grants.ts";
import { storeBlob } from "../store/ledger.ts";
import { findInbox } from "../store/messages.ts";
import { getPeer } from "../store/parties.ts";
import { withFailures } from "./failures.ts";

export interface DelegationDeps {
  readonly db: Db;
  readonly identity: Identity;
  readonly acts: Acts;
  /** the online CA's token; a site without one delegates in its ceremony only */
  readonly caToken: CaToken | undefined;
  readonly now?: () => Date;
}

/** The grantor's activities. They take the child's name; what it is granted, and whether, is in this site's own rows. */
export function delegationActivities(deps: DelegationDeps): DelegationActivities {
  const { db, identity, acts, caToken } = deps;
  const now = (): Date => deps.now?.() ?? new Date();

  function requireCaToken(): CaToken {
    if (caToken) return caToken;
    throw new CountersignError("unauthorized", "this site's CA is offline: delegate in its ceremony");
  }

  /** The own certificate first, the root last. */
  async function issuers(): Promise<Uint8Array[]> {
    const grant = await findCurrentGrant(db);
    if (grant) return [grant.certificate, ...grant.upstream];
    const ca = await findCaCertificate(db);
    if (ca?.role === "root") return [ca.certificate];
    throw new CountersignError("grant-missing", "this site has no CA certificate yet");
  }

  /** The act that stands before this one: the own acceptance, or the ceremony. */
  async function standing(): Promise<{ grant: ActRef | undefined; prev: ActRef }> {
    const grant = await findCurrentGrant(db);
    const ceremony = grant ? undefined : await lastCeremony(db);
    const accepted =
      grant && (await acts.find(workflowIds.acceptance(identity.party), `acceptance/${grant.ref.leafHash}`));
    const leafHash = accepted?.leafHash ?? ceremony?.actLeafHash;
    if (leafHash == null) throw new CountersignError("grant-missing", "this site may not delegate yet");
    return { grant: grant?.ref, prev: { origin: identity.origin, leafHash } };
  }

  /**
   * What is in the ledger stands: this site's own grant may have been renewed since, so that it would be worded otherwise
   * today, and a restored database may have forgotten that it was recorded.
   */
  async function keepRecorded(row: Delegation, { leafHash, entry }: RecordedAct): Promise<{ leafHash: string }> {
    const { act } = parseEntry(entry);
    if (act.type !== "delegation" || row.certificate === null || act.fields.certificate !== toBase64(row.certificate)) {
      throw new CountersignError(
        "act-conflict",
        `revision ${row.revision} of the grant to ${row.child} is in the ledger with another certificate`,
      );
    }
    await storeDelegationAct(db, row.child, { origin: identity.origin, leafHash, entry });
    return { leafHash };
  }

  return withFailures<DelegationActivities>({
    async prepareDelegation({ child }) {
      const row = await getDelegation(db, child);
      if (!row.certificate) {
        requireCaToken();
        await prepareChild(db, child, onlineIssuer(await currentGrant(db), identity.publicUrl), now());
      }
      return { intent: delegationIntent(row) };
    },

    async signDelegation({ child }) {
      const row = await getDelegation(db, child);
      if (row.certificate) return { certificateSha256: sha256Hex(row.certificate) };
      const issuer = onlineIssuer(await currentGrant(db), identity.publicUrl);
      const key = await caKeyOf(db, requireCaToken(), issuer.certificate.spki);
      return { certificateSha256: sha256Hex(await signChild(db, child, issuer, key)) };
    },

    async recordDelegation({ child }) {
      const row = await getDelegation(db, child);
      const name = { workflowId: workflowIds.delegation(child), stepKey: `delegation/${row.revision}` };
      const recorded = await acts.find(name.workflowId, name.stepKey);
      if (recorded) return keepRecorded(row, recorded);
      const [issuer] = await issuers();
      if (!issuer) throw new CountersignError("grant-missing", "this site has no CA certificate yet");
      const { grant, prev } = await standing();
      const { origin } = identity;
      const fields = grantFields(row, { origin, issuerSpki: parseCertificate(issuer).spki, parentGrant: grant });
      // For another key than the keyset's: a rebuilt site has to find what it was asked for.
      const request = fields.ca === undefined ? [] : [{ name: "request", sha256: row.csrSha256, size: row.csr.length }];
      for (const { sha256 } of request) await storeBlob(db, fromHex(sha256), row.csr);
      const act = await acts.recordSigned(
        {
          type: "delegation",
          ...name,
          subject: [{ name: child, digest: { sha256: sha256Hex(fromBase64(grantedKey(fields))) } }],
          ...(grant === undefined ? {} : { grant }),
          prev: [
            prev,
            { origin: row.keysetOrigin, leafHash: row.keysetLeafHash },
            ...(row.supersededLeafHash === null ? [] : [{ origin, leafHash: row.supersededLeafHash }]),
          ],
          blobs: request,
          fields,
        },
        identity.act,
        // Together, or not at all: whoever has it revoked finds the certificate recorded, or it never is.
        async (tx, { leafHash, entry }) => {
          await lockStanding(tx, child);
          await storeDelegationAct(tx, child, { origin, leafHash, entry });
        },
      );
      await storeDelegationAct(db, child, { origin, leafHash: act.leafHash, entry: act.entry });
      return { leafHash: act.leafHash };
    },

    async sendDelegation({ child }) {
      const row = await getDelegation(db, child);
      if (!row.actEntry) throw new CountersignError("state-conflict", `the delegation to ${child} isn't recorded yet`);
      await enqueue(db, {
        receiver: child,
        type: "delegation",
        // One that the child refused is sent as a new message, when it is asked for again.
        retryKey: `delegation/${row.actLeafHash}${row.refusedBy === null ? "" : `/after/${row.refusedBy}`}`,
        body: { act: toBase64(row.actEntry), upstream: (await issuers()).map(toBase64) },
      });
    },

    async refuseDelegation({ child, refusal }) {
      await refuseDelegation(db, child, refusal);
    },

    async confirmAcceptance({ child, message }) {
      const stored = await findInbox(db, message);
      if (stored?.type !== "acceptance" || stored.sender !== child) {
        throw new CountersignError("not-found", `no acceptance of ${child} arrived as ${message}`);
      }
      const peer = await getPeer(db, child);
      const row = await getDelegation(db, child);
      const { act, ref, entry } = await openSignedAct(
        fromBase64(readBody("acceptance", stored.body).act),
        { type: "acceptance", ...author(peer) },
        nodeVerify,
      );
      if (act.grant?.leafHash !== row.actLeafHash || act.grant?.origin !== identity.origin) {
        throw new CountersignError("grant-mismatch", `${child} accepted another grant than ours`);
      }
      if (act.fields.keyset.leafHash !== row.keysetLeafHash) {
        throw new CountersignError(
          "grant-mismatch",
          `${child} accepted under another keyset than the one it joined with`,
        );
      }
      const chain = [row.certificate ?? new Uint8Array(0), ...(await issuers())];
      if (act.fields.chainSha256 !== sha256Hex(Buffer.concat(chain))) {
        throw new CountersignError("grant-mismatch", `${child} accepted another chain than ours`);
      }
      await inTransaction(db, (tx) => storeAcceptance(tx, child, { leafHash: ref.leafHash, entry }));
    },
  });
}
