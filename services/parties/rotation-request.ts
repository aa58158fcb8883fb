import { fromBase64, toBase64 } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import type { VerifySignature } from "../../lib/domain/signing.ts";
import { rotationFault } from "../../lib/ledger/rotation.ts";
import { parseCertificate } from "../../lib/pki/certificate.ts";
import { parseCsr } from "../../lib/pki/csr.ts";
import { sameName } from "../../lib/pki/name.ts";
import { profileNamed } from "../../lib/pki/profiles.ts";
import type { Body } from "../../lib/records/message.ts";
import { rotationChallenge } from "../../lib/records/rotation.ts";
import type { Tx } from "../../store/db.ts";
import { askAgain, beginRotation, supersededCertificates, type Delegation } from "../../store/delegations.ts";
import { sha256Hex } from "../ledger/sha256.ts";
import { lockStanding } from "./delegate.ts";

/**
 * A child's request for a CA certificate for another key: begins the grant's next revision, with everything but the key
 * as it is. Both keys have to say so, and the grant that they name is the one in force: a request is good once.
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
  // Sent once more, after its sender's database was set back.
  if (row.supersededLeafHash === supersedes.leafHash && toBase64(csr.spki) === toBase64(parseCsr(row.csr).spki)) {
    if (row.state === "refused") await askAgain(tx, child);
    return;
  }
  if (row.state !== "accepted" || row.certificate === null || row.actLeafHash !== supersedes.leafHash) {
    throw new CountersignError("state-conflict", `the grant that ${child} names isn't the one it has of us now`);
  }
  if (row.actOrigin !== supersedes.origin) throw unproven(child, "it names a grant of another ledger");
  const present = parseCertificate(row.certificate);
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

async function wasUsed(tx: Tx, { child, keyset }: Delegation, spki: string): Promise<boolean> {
  const { ca, act, infrastructure, imageSigning } = keyset;
  const earlier = await supersededCertificates(tx, child);
  const cas = earlier.map(({ certificate }) => toBase64(parseCertificate(certificate).spki));
  return [ca, act, infrastructure, imageSigning, ...cas].includes(spki);
}

function unproven(child: string, why: string): CountersignError {
  return new CountersignError("possession-unproven", `the new CA key of ${child} is refused: ${why}`);
}
