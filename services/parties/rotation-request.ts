import { equalBytes, fromBase64, toBase64 } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import type { VerifySignature } from "../../lib/domain/signing.ts";
import { rotationFault } from "../../lib/ledger/rotation.ts";
import { parseCertificate, type Certificate } from "../../lib/pki/certificate.ts";
import { parseCsr } from "../../lib/pki/csr.ts";
import { sameName } from "../../lib/pki/name.ts";
import { profileNamed } from "../../lib/pki/profiles.ts";
import type { Body } from "../../lib/records/message.ts";
import type { ActRef } from "../../lib/records/primitives.ts";
import { rotationChallenge } from "../../lib/records/rotation.ts";
import type { Tx } from "../../store/db.ts";
import {
  askAgain,
  beginRotation,
  isRefusedByChild,
  supersededCertificates,
  type Delegation,
} from "../../store/delegations.ts";
import { sha256Hex } from "../ledger/sha256.ts";
import { lockStanding } from "./delegate.ts";

/**
 * A child's request for a CA certificate for another key: begins the grant's next revision, with everything but the key
 * as it is. Both keys have to say so, and the grant that they name is the one in force: a request is good once. Where the
 * child has said no to what an earlier request brought, another key takes that one's place, and that order is closed.
 * @throws CountersignError `not-found`, `possession-unproven`, `csr-invalid`, `key-unsupported`, `state-conflict` (revoked
 *   or held, or another revision is under way)
 */
export async function admitRotation(
  tx: Tx,
  child: string,
  body: Body<"rotation">,
  verify: VerifySignature,
): Promise<void> {
  const row = await lockStanding(tx, child);
  const { supersedes } = body;
  const proofs = { old: fromBase64(body.old), new: fromBase64(body.new) };
  const csr = parseCsr(proofs.new);
  const ordered = await orderedInPlaceOf(tx, row, supersedes);
  // Sent once more, after its sender's database was set back.
  if (ordered !== undefined && equalBytes(csr.spki, parseCsr(row.csr).spki)) {
    if (row.state === "refused") await askAgain(tx, child);
    return;
  }
  // A sitting of an offline CA goes by the last certificate's key, which here is the lost one.
  const anew = ordered !== undefined && row.signer === "site" && isRefusedByChild(row);
  const present = anew ? ordered : inForce(row, supersedes);
  const of = { party: child, supersedes, old: toBase64(present.spki), new: toBase64(csr.spki) };
  const fault = await rotationFault(of, proofs, verify);
  if (fault !== undefined) throw unproven(child, fault);
  if (!sameName(csr.subject, present.subject)) throw unproven(child, "it asks for another name than its CA has");
  const allowed = profileNamed("intermediate-embedded").keyAlgorithms;
  if (!allowed.includes(csr.keyAlgorithm)) {
    throw new CountersignError(
      "key-unsupported",
      `a CA's key is one of ${allowed.join(", ")}, not ${csr.keyAlgorithm}`,
    );
  }
  if (await wasUsed(tx, row, of.new)) throw unproven(child, "its new key has, or had, another role already");
  const digests = { csrSha256: sha256Hex(csr.der), nonceSha256: sha256Hex(rotationChallenge(of)) };
  await beginRotation(tx, child, { csr: csr.der, proof: proofs.old, ...digests });
}

/** The certificate of the grant that the child has accepted last, when that is the one named. */
function inForce({ child, state, certificate, actLeafHash, actOrigin }: Delegation, named: ActRef): Certificate {
  if (state !== "accepted" || certificate === null || actLeafHash !== named.leafHash) {
    throw new CountersignError("state-conflict", `the grant that ${child} names isn't the one it has of us now`);
  }
  if (actOrigin !== named.origin) throw unproven(child, "it names a grant of another ledger");
  return parseCertificate(certificate);
}

/**
 * The certificate of the grant that is named, when the last revision was begun by a request for another key in that one's
 * place, as its challenge says: as long as that isn't accepted, the one named is in force. A mere renewal keeps an earlier
 * request, and says nothing of the kind: it is for the key of the certificate before it.
 */
async function orderedInPlaceOf(tx: Tx, row: Delegation, named: ActRef): Promise<Certificate | undefined> {
  const { spki } = parseCsr(row.csr);
  const { supersededCertificate: last } = row;
  if (last === null || equalBytes(parseCertificate(last).spki, spki)) return undefined;
  const found = (await supersededCertificates(tx, row.child)).find(({ leafHash }) => leafHash === named.leafHash);
  if (found === undefined) return undefined;
  const before = parseCertificate(found.certificate);
  const of = { party: row.child, supersedes: named, old: toBase64(before.spki), new: toBase64(spki) };
  return sha256Hex(rotationChallenge(of)) === row.nonceSha256 ? before : undefined;
}

async function wasUsed(tx: Tx, { child, keyset, certificate: last }: Delegation, spki: string): Promise<boolean> {
  const { ca, act, infrastructure, imageSigning } = keyset;
  const signed = (await supersededCertificates(tx, child)).map(({ certificate }) => certificate);
  const cas = [...signed, ...(last === null ? [] : [last])].map((der) => toBase64(parseCertificate(der).spki));
  return [ca, act, infrastructure, imageSigning, ...cas].includes(spki);
}

function unproven(child: string, why: string): CountersignError {
  return new CountersignError("possession-unproven", `the new CA key of ${child} is refused: ${why}`);
}
