import { equalBytes, toBase64 } from "../../lib/domain/bytes.ts";
import type { VerifySignature } from "../../lib/domain/signing.ts";
import { rotationFault } from "../../lib/ledger/rotation.ts";
import { isSignedBy } from "../../lib/pki/algorithms.ts";
import { parseCertificate, type Certificate } from "../../lib/pki/certificate.ts";
import { parseCsr } from "../../lib/pki/csr.ts";
import { sameName } from "../../lib/pki/name.ts";
import type { Delegation } from "../../store/delegations.ts";

/**
 * Why an offline root's sitting doesn't answer a child's request; undefined when it is the one that the ceremony's document
 * names, or leads back by the root's own signature to a key that the child has changed for this one. The database's word
 * counts for nothing: what was read aloud is held against the root's own certificate of the child, and that key's proof.
 * @param granted digest of the request in the ceremony's document
 */
export async function rootRequestFault(
  row: Delegation,
  { granted, origin, root }: { granted: string; origin: string; root: Certificate },
  verify: VerifySignature,
): Promise<string | undefined> {
  if (granted === row.csrSha256) return undefined;
  const der = row.certificate ?? row.supersededCertificate;
  if (der === null) return "the root has signed nothing for it yet";
  const [csr, last] = [parseCsr(row.csr), parseCertificate(der)];
  if (!(await isSignedBy(last, root.spki, verify)) || last.basicConstraints?.ca !== true) {
    return "the root didn't sign the CA certificate that it has";
  }
  if (!sameName(csr.subject, last.subject)) return "it asks for another name";
  if (equalBytes(csr.spki, last.spki)) return undefined;
  if (row.rotationProof === null || row.supersededLeafHash === null) return "its last CA key doesn't say so";
  const supersedes = { origin, leafHash: row.supersededLeafHash };
  const of = { party: row.child, supersedes, old: toBase64(last.spki), new: toBase64(csr.spki) };
  return rotationFault(of, { old: row.rotationProof, new: row.csr }, verify);
}
