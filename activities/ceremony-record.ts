import type { CeremonyRecordActivities } from "../contracts/parties.ts";
import { workflowIds } from "../contracts/parties.ts";
import { fromHex, toBase64 } from "../lib/domain/bytes.ts";
import { CountersignError } from "../lib/domain/errors.ts";
import { sha256Hex } from "../lib/domain/hash.ts";
import { parseCertificate } from "../lib/pki/certificate.ts";
import { keyId } from "../lib/pki/spki.ts";
import type { Acts } from "../services/ledger/acts.ts";
import { crlName } from "../services/parties/ca.ts";
import type { Identity } from "../services/parties/identity.ts";
import { makeKeyset } from "../services/parties/keyset.ts";
import { currentCrl, findCaCertificate, findCeremony, setCeremony, type Ceremony } from "../store/authority.ts";
import type { Db } from "../store/db.ts";
import { storeBlob } from "../store/ledger.ts";
import { storeOwnKeyset } from "../store/parties.ts";
import { withFailures } from "./failures.ts";

export interface CeremonyRecordDeps {
  readonly db: Db;
  readonly identity: Identity;
  readonly acts: Acts;
}

/** What a ceremony leaves to the site: its act, signed by the act key, which the act itself anchors. */
export function ceremonyRecordActivities({ db, identity, acts }: CeremonyRecordDeps): CeremonyRecordActivities {
  async function ceremony(sha256: string): Promise<Ceremony> {
    const found = await findCeremony(db, sha256);
    if (!found) throw new CountersignError("not-found", `no ceremony of document ${sha256} was begun here`);
    return found;
  }

  return withFailures<CeremonyRecordActivities>({
    async recordCeremony({ documentSha256 }) {
      const { document, actLeafHash } = await ceremony(documentSha256);
      if (actLeafHash !== null) return { leafHash: actLeafHash };
      const root = await findCaCertificate(db);
      if (root?.role !== "root") throw new CountersignError("state-conflict", "the root isn't signed yet");
      const crl = await currentCrl(db, crlName(root.keyId));
      if (!crl) throw new CountersignError("state-conflict", "the root's CRL isn't signed yet");
      const { spki } = parseCertificate(root.certificate);
      const keyset = await makeKeyset(identity, { spki, kind: "self-signed", der: root.certificate });
      const { certificate } = identity.infrastructure;
      const blobs = [
        { name: "ceremony.yaml", sha256: documentSha256, size: document.length },
        { name: "infrastructure", sha256: sha256Hex(certificate), size: certificate.length },
      ];
      await storeBlob(db, fromHex(documentSha256), document);
      await storeBlob(db, fromHex(sha256Hex(certificate)), certificate);
      const act = await acts.recordSigned(
        {
          type: "ceremony",
          workflowId: workflowIds.ceremony(identity.party),
          stepKey: "ceremony",
          subject: [{ name: identity.party, digest: { sha256: keyId(spki) } }],
          blobs,
          fields: {
            document: { sha256: documentSha256 },
            root: toBase64(root.certificate),
            keyset,
            crl: toBase64(crl.der),
            approvals: [],
          },
        },
        identity.act,
      );
      const ref = { origin: identity.origin, leafHash: act.leafHash };
      await storeOwnKeyset(db, { keyset, ref, entry: act.entry, infrastructure: certificate, request: null });
      await setCeremony(db, documentSha256, { state: "signed", act: ref });
      return { leafHash: act.leafHash };
    },

    async finishCeremony({ documentSha256 }) {
      await ceremony(documentSha256);
      await setCeremony(db, documentSha256, { state: "done" });
    },
  });
}
