import { parseArgs } from "node:util";
import { nodeVerify } from "../../hsm/index.ts";
import { equalBytes } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { sha256Hex } from "../../lib/domain/hash.ts";
import { canonicalJson } from "../../lib/domain/json.ts";
import { parseCertificate } from "../../lib/pki/certificate.ts";
import { parseCeremony } from "../../lib/records/ceremony.ts";
import { prepareChild, signChild, type Issuer } from "../../services/parties/delegate.ts";
import { rootRequestFault } from "../../services/parties/root-request.ts";
import { lastCeremony } from "../../store/authority.ts";
import { inTransaction } from "../../store/db.ts";
import { getDelegation, requestRenewal } from "../../store/delegations.ts";
import { answerAndEnd, holdSitting } from "./root-sitting.ts";

/**
 * A child's CA certificate anew, signed by the offline root: for the request that was reviewed (the ceremony's, or one for
 * a key that the last one says takes its place), under the terms of the ceremony's document; only the end may be later. The
 * site records and sends it.
 *
 *   node apps/site/ceremony-renew.ts --config .countersign/company-x/root/ceremony.json --child factory-y --request 5f0c...
 */
await answerAndEnd(async () => {
  const { values } = parseArgs({
    options: {
      config: { type: "string" },
      child: { type: "string" },
      request: { type: "string" },
      until: { type: "string" },
    },
  });
  const { config, child, request, until } = values;
  if (config === undefined || child === undefined || request === undefined) {
    throw new CountersignError(
      "usage",
      "usage: ceremony-renew.ts --config FILE --child ID --request SHA256 [--until T]",
    );
  }
  return holdSitting(config, async ({ site, db, root, token }) => {
    const row = await getDelegation(db, child);
    const document = await lastCeremony(db);
    const granted = document && parseCeremony(document.document).delegations.find(({ to }) => to === child);
    const { csrSha256 } = row;
    if (csrSha256 !== request || sha256Hex(row.csr) !== request) {
      throw new CountersignError("state-conflict", `${child}'s request is ${csrSha256}, not the one that was named`);
    }
    // The database may have been written by others: nothing is granted but what the ceremony's document says.
    const fixed = (terms: object): Uint8Array => canonicalJson({ ...terms, notAfter: null });
    if (granted === undefined || row.terms === null || !equalBytes(fixed(granted.grant), fixed(row.terms))) {
      throw new CountersignError("unauthorized", `the root's ceremony didn't grant this to ${child}`);
    }
    const asked = { granted: granted.csrSha256, origin: site.origin, root };
    const fault = await rootRequestFault(row, asked, nodeVerify);
    if (fault !== undefined) throw new CountersignError("unauthorized", `${child}'s request isn't answered: ${fault}`);
    if (until !== undefined && until < row.terms.notAfter) {
      throw new CountersignError("input-invalid", `the grant to ${child} lasts until ${row.terms.notAfter} already`);
    }
    const { publicUrl } = site.gateway;
    const issuer: Issuer = { signer: "ceremony", certificate: root, upstream: [], grant: undefined, publicUrl };
    await inTransaction(db, (tx) => requestRenewal(tx, child, until, "ceremony"));
    await prepareChild(db, child, issuer, new Date());
    const certificate = parseCertificate(await signChild(db, child, issuer, await token.caKey("root")));
    const { revision, terms } = await getDelegation(db, child);
    return { child, revision, serial: certificate.serial, notAfter: terms?.notAfter ?? "" };
  });
});
