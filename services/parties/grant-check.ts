import { concatBytes, equalBytes, fromBase64, toBase64 } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { canonicalJson } from "../../lib/domain/json.ts";
import type { VerifySignature } from "../../lib/domain/signing.ts";
import { parseCertificate, type Certificate } from "../../lib/pki/certificate.ts";
import { parseCsr } from "../../lib/pki/csr.ts";
import { validatePath } from "../../lib/pki/path.ts";
import { grantedKey, type Grant } from "../../lib/records/grant.ts";
import type { ActRef } from "../../lib/records/primitives.ts";
import type { Keyset } from "../../lib/records/keyset.ts";
import { sha256Hex } from "../ledger/sha256.ts";
import { checkWindow } from "./terms.ts";

/** What a renewal may change: the certificate, by whichever key its issuer has now, and how long the grant lasts. */
const RENEWED = ["revision", "supersedes", "parentGrant", "issuer", "certificate", "notAfter"] as const;
/** What a change of our own key changes as well. */
const ROTATED = [...RENEWED, "ca", "csrSha256", "nonceSha256"] as const;

/**
 * A grant in the place of the current one: its next revision, with nothing taken away and nothing added but time, for the
 * same CA key or another one of ours.
 * @throws CountersignError `grant-mismatch`
 */
export function checkRenewal(held: { readonly ref: ActRef; readonly fields: Grant }, next: Grant): void {
  const { supersedes } = next;
  const rotates = grantedKey(held.fields) !== grantedKey(next);
  const names = supersedes?.origin === held.ref.origin && supersedes.leafHash === held.ref.leafHash;
  const follows = names && next.revision === held.fields.revision + 1;
  // After keys that were lost, and whose grants this site refused: for those it need not vouch, as the request that a grant
  // for another key answers names the grant in force itself.
  const afterLost = rotates && supersedes?.origin === held.ref.origin && next.revision > held.fields.revision + 1;
  if (!follows && !afterLost) {
    throw new CountersignError("grant-mismatch", `the grant ${next.id} isn't the next revision of the one in force`);
  }
  const changing: readonly string[] = rotates ? ROTATED : RENEWED;
  const fixed = (grant: Grant): Uint8Array =>
    canonicalJson(Object.fromEntries(Object.entries(grant).filter(([name]) => !changing.includes(name))));
  if (!equalBytes(fixed(held.fields), fixed(next)) || next.notAfter < held.fields.notAfter) {
    throw new CountersignError("grant-mismatch", `revision ${next.revision} of ${next.id} changes more than its time`);
  }
}

export interface OwnRequest {
  readonly party: string;
  readonly keyset: Keyset;
  /** DER: whose key and name are asked for */
  readonly csr: Uint8Array;
  /** of the bytes that were sent, where this site knows them for certain: a challenge in them binds the grant as well */
  readonly csrSha256: string | undefined;
  readonly nonceSha256: string;
}

export interface CheckedGrant {
  /** DER: own certificate first, root last */
  readonly chain: Uint8Array[];
  readonly root: Certificate;
  readonly chainSha256: string;
}

/**
 * A grantee's look at what it was given, before it uses it: is this our key, our keyset, our request, the name we asked
 * for, and does the chain hold up to its root?
 * @param pinnedRoot SHA-256 of the root this site trusts; without one the chain's root is for the caller to pin
 * @throws CountersignError `grant-mismatch`, `path-invalid`, `certificate-invalid`, `grant-expired`, `grant-not-yet-valid`
 */
export async function checkGrant(
  grant: Grant,
  upstream: readonly Uint8Array[],
  own: OwnRequest,
  context: { pinnedRoot: string | undefined; now: Date; verify: VerifySignature },
): Promise<CheckedGrant> {
  const refuse = (why: string): CountersignError =>
    new CountersignError("grant-mismatch", `the grant ${grant.id} isn't what was asked for: ${why}`);
  const csr = parseCsr(own.csr);
  if (grant.child !== own.party) throw refuse(`it is for ${grant.child}`);
  if (!equalBytes(canonicalJson(grant.keyset), canonicalJson(own.keyset)))
    throw refuse("it pins another keyset than ours");
  if (own.csrSha256 !== undefined && grant.csrSha256 !== own.csrSha256) throw refuse("it answers another request");
  if (grant.nonceSha256 !== own.nonceSha256) throw refuse("it answers another invitation");
  checkWindow(grant, context.now);

  const der = fromBase64(grant.certificate);
  const certificate = parseCertificate(der);
  const issuers = upstream.map(parseCertificate);
  const [parent, root] = [issuers[0], issuers.at(-1)];
  if (!parent || !root) throw refuse("it came without its issuers");
  if (!equalBytes(certificate.spki, csr.spki)) throw refuse("the certificate is for another key");
  if (!equalBytes(certificate.subject.der, csr.subject.der)) throw refuse("the certificate has another name");
  if (certificate.basicConstraints?.ca !== true) throw refuse("the certificate isn't a CA's");
  if (certificate.basicConstraints.pathLen !== grant.pathLen) throw refuse("its path length isn't the grant's");
  if (grant.issuer !== toBase64(parent.spki)) throw refuse("the issuer it names isn't the certificate's");
  if (context.pinnedRoot !== undefined && context.pinnedRoot !== sha256Hex(root.der)) {
    throw refuse("its chain ends in another root than the one this site trusts");
  }
  // One order for everybody: the acceptance names the chain by its digest.
  const path = [certificate, ...issuers];
  if (path.some((one, i) => path[i + 1] && !equalBytes(one.issuer.der, path[i + 1]!.subject.der))) {
    throw refuse("its issuers aren't in order, parent first");
  }
  const chain = [der, ...upstream];
  const result = await validatePath({ chain, roots: [root.der], at: context.now, verify: context.verify });
  if (!result.ok)
    throw new CountersignError("path-invalid", `the chain of the grant ${grant.id} doesn't hold: ${result.message}`);
  return { chain, root, chainSha256: sha256Hex(concatBytes(...chain)) };
}
