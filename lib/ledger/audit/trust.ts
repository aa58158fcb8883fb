import { concatBytes, equalBytes, fromBase64, toBase64 } from "../../domain/bytes.ts";
import { sha256Hex } from "../../domain/hash.ts";
import { canonicalJson } from "../../domain/json.ts";
import { grantedKey, type Grant } from "../../records/grant.ts";
import { isCountersignError } from "../../domain/errors.ts";
import { parseCertificate, type Certificate } from "../../pki/certificate.ts";
import { checkCsr, parseCsr } from "../../pki/csr.ts";
import { parseCrl } from "../../pki/crl.ts";
import { validatePath } from "../../pki/path.ts";
import { keyAlgorithmOf, keyId } from "../../pki/spki.ts";
import { isSignedBy, signatureAlgorithmForKey } from "../../pki/algorithms.ts";
import { verifyDsse } from "../../records/dsse.ts";
import { imageKeyProven, keysetProofMessage, type Keyset } from "../../records/keyset.ts";
import type { ParsedEntry } from "../../records/statement.ts";
import { ed25519Spki, formatVkey, parseVkey, type NoteKey } from "../note.ts";
import { openCheckpoint } from "../checkpoint.ts";
import { utf8 } from "../../domain/bytes.ts";
import { isTakenBack } from "./revocation.ts";
import { acceptedKeyFault, placeOf } from "./rotation.ts";
import { refKey, wrong, type AuditState, type GrantState, type PartyState, type Placed } from "./state.ts";

/** Who may speak for whom: keysets, the ceremony, delegations and their acceptance. */

/** The keys of a party must be those its log is pinned by, each with its proof of possession. */
export async function checkKeyset(keyset: Keyset, log: NoteKey, state: AuditState): Promise<string | undefined> {
  if (keyset.log.origin !== log.name || keyset.log.vkey !== formatVkey(log)) {
    return "its log key is not the one that the policy pins";
  }
  const witness = parseVkey(keyset.witness.vkey);
  const proven = await state.verify({
    spki: ed25519Spki(witness.publicKey),
    algorithm: "ed25519",
    message: keysetProofMessage(keyset),
    signature: fromBase64(keyset.proofs.witness.signature),
  });
  if (!proven) return "the witness key's proof of possession doesn't verify";
  if (!(await imageKeyProven(keyset, state.verify)))
    return "the image-signing key's proof of possession doesn't verify";
  const first = await openCheckpoint(utf8(keyset.proofs.log.checkpoint), log, state.verify);
  if (first.size !== 0) return "the log key's proof is not a checkpoint of size 0";
  return undefined;
}

/** The proofs of a party's keyset that are digests, against what lies beside its own ledger. */
async function checkDigests(keyset: Keyset, party: PartyState, state: AuditState): Promise<string | undefined> {
  const { ca, infrastructure } = keyset.proofs;
  const der = await state.blob(party.id, infrastructure.certificateSha256);
  if (!der && state.everyBlob) return "its infrastructure CA's certificate doesn't lie beside the ledger";
  if (der) {
    const certificate = parseCertificate(der);
    if (toBase64(certificate.spki) !== keyset.infrastructure)
      return "its infrastructure CA's certificate has another key";
    const self = certificate.selfIssued && (await isSignedBy(certificate, certificate.spki, state.verify));
    if (!self || certificate.basicConstraints?.ca !== true) return "its infrastructure CA isn't a self-signed CA";
  }
  if (ca.kind === "self-signed") return undefined;
  // The request carries an invitation's nonce: a party needn't publish it, but what it publishes must be it.
  const request = await state.blob(party.id, ca.sha256);
  if (!request) return undefined;
  const csr = parseCsr(request);
  await checkCsr(csr, state.verify);
  return toBase64(csr.spki) === keyset.ca ? undefined : "the request it names is for another CA key";
}

/** A keyset as its own party publishes it. A proof that can't be read is none. */
async function checkOwnKeyset(
  keyset: Keyset,
  kind: Keyset["proofs"]["ca"]["kind"],
  party: PartyState,
  state: AuditState,
): Promise<string | undefined> {
  if (keyset.proofs.ca.kind !== kind) return `its CA key's proof is ${keyset.proofs.ca.kind}, not ${kind}`;
  try {
    return (await checkKeyset(keyset, party.log, state)) ?? (await checkDigests(keyset, party, state));
  } catch (error) {
    if (!isCountersignError(error) || error.kind === "unavailable" || error.kind === "internal") throw error;
    return error.message;
  }
}

/** A signed act counts only with a signature by its party's act key. */
export async function checkSignature(at: Placed, parsed: ParsedEntry, party: PartyState, state: AuditState) {
  if (!parsed.dsse) return;
  const act = parsed.act;
  // The first act of a party carries its act key; the pinned log vouches for it, the grant confirms it.
  const carried = act.type === "keyset" || act.type === "ceremony" ? act.fields.keyset : undefined;
  const keyset = party.keyset ?? carried;
  if (!keyset) return wrong(state, at, "keyset-invalid", "the party signs before it has named its act key");
  const spki = fromBase64(keyset.act);
  const key = { spki, keyId: keyId(spki), algorithm: signatureAlgorithmForKey(keyAlgorithmOf(spki)) };
  if (!(await verifyDsse(parsed.dsse, key, state.verify))) {
    wrong(state, at, "act-unsigned", "it is not signed by the party's act key");
  }
}

export async function onKeyset(at: Placed<"keyset">, party: PartyState, state: AuditState): Promise<void> {
  const { keyset } = at.act.fields;
  if (keyset.party !== party.id) return wrong(state, at, "keyset-invalid", `it names party ${keyset.party}`);
  const fault = await checkOwnKeyset(keyset, "csr", party, state);
  if (fault) return wrong(state, at, "keyset-invalid", fault);
  if (party.keyset) return wrong(state, at, "keyset-invalid", "the party named its keys before");
  party.keyset = keyset;
  party.keysetAct = { origin: party.log.name, leafHash: at.leafHash };
}

export async function onCeremony(at: Placed<"ceremony">, party: PartyState, state: AuditState): Promise<void> {
  const { root, keyset, crl, document } = at.act.fields;
  if (!equalBytes(fromBase64(root), state.root.der)) {
    return wrong(state, at, "root-mismatch", "the ceremony made another root than the pinned one");
  }
  if (keyset.party !== party.id) return wrong(state, at, "keyset-invalid", `it names party ${keyset.party}`);
  // The root and its CRL are public: anybody's ledger can hold a ceremony of them. Two that claim the root are one lie.
  if (state.rootParty !== undefined) {
    return wrong(state, at, "ceremony-invalid", `the ledger of ${state.rootParty} holds a ceremony of this root`);
  }
  if (party.keyset || party.chain.length > 0) {
    return wrong(state, at, "ceremony-invalid", "the party has keys or a grant already: a ceremony is its first act");
  }
  if (!equalBytes(fromBase64(keyset.ca), state.root.spki)) {
    return wrong(state, at, "keyset-invalid", "the keyset's CA key is not the root's");
  }
  if (keyset.proofs.ca.sha256 !== sha256Hex(state.root.der)) {
    return wrong(state, at, "keyset-invalid", "its CA key's proof is not the root");
  }
  const fault = await checkOwnKeyset(keyset, "self-signed", party, state);
  if (fault) return wrong(state, at, "keyset-invalid", fault);
  if (state.everyBlob && !(await state.blob(party.id, document.sha256))) {
    return wrong(state, at, "ceremony-invalid", "the reviewed document doesn't lie beside the ledger");
  }
  state.rootParty = party.id;
  party.keyset = keyset;
  party.chain = [state.root];
  try {
    if (await isSignedBy(parseCrl(fromBase64(crl)), state.root.spki, state.verify)) return;
    wrong(state, at, "ceremony-invalid", "the root's CRL is not signed by the root");
  } catch (error) {
    if (!isCountersignError(error)) throw error;
    wrong(state, at, "ceremony-invalid", `the root's CRL can't be read: ${error.message}`);
  }
}

export async function onDelegation(at: Placed<"delegation">, party: PartyState, state: AuditState): Promise<void> {
  const fields = at.act.fields;
  const ref = { origin: party.log.name, leafHash: at.leafHash };
  const exceeded = beyondOwnGrant(at, party, state);
  if (exceeded) wrong(state, at, "grant-exceeded", exceeded, fields.child);
  const renewal = renewalFault(at, party, state);
  if (renewal !== undefined) wrong(state, at, "grant-exceeded", renewal, fields.child);
  if (fields.supersedes === undefined) party.delegated += fields.quota;
  if (party.grant && party.delegated + party.certified > party.grant.fields.quota) {
    wrong(
      state,
      at,
      "quota-exceeded",
      `more is delegated on than the grant of ${party.grant.fields.quota} allows`,
      fields.child,
    );
  }
  if (!party.chain[0] || fields.issuer !== toBase64(party.chain[0].spki)) {
    wrong(state, at, "grant-exceeded", "the issuer named is not the party's CA key", fields.child);
  }
  const chain = await childChain(at, party, state);
  if (!chain) return;
  const grant: GrantState = { ref, fields, by: party.id, chain, accepted: false };
  state.grants.set(refKey(ref), grant);
  const child = state.parties.get(fields.child);
  if (!child) {
    return state.findings.add({
      severity: "error",
      code: "ledger-missing",
      party: fields.child,
      message: `${party.id} delegated to ${fields.child}, whose ledger the policy doesn't name`,
    });
  }
  const fault = await checkKeyset(fields.keyset, child.log, state);
  if (fault) wrong(state, at, "keyset-invalid", fault, fields.child);
}

async function childChain(
  at: Placed<"delegation">,
  party: PartyState,
  state: AuditState,
): Promise<readonly Certificate[] | undefined> {
  const fields = at.act.fields;
  let certificate: Certificate;
  try {
    certificate = parseCertificate(fromBase64(fields.certificate));
  } catch (error) {
    if (!isCountersignError(error)) throw error;
    wrong(state, at, "certificate-invalid", error.message, fields.child);
    return undefined;
  }
  const chain = [certificate, ...party.chain];
  if (toBase64(certificate.spki) !== grantedKey(fields)) {
    wrong(state, at, "certificate-invalid", "the certificate holds another key than the grant", fields.child);
    return undefined;
  }
  if (certificate.basicConstraints?.ca !== true || certificate.basicConstraints.pathLen !== fields.pathLen) {
    wrong(state, at, "certificate-invalid", "the certificate's path length is not the grant's", fields.child);
  }
  const path = await validatePath({
    chain: chain.map((c) => c.der),
    roots: [state.root.der],
    at: new Date(at.act.time),
    verify: state.verify,
  });
  if (!path.ok) {
    wrong(state, at, "certificate-invalid", `the chain doesn't verify: ${path.message}`, fields.child);
    return undefined;
  }
  const key = `${party.id}#${certificate.serial}`;
  if (state.serials.has(key))
    wrong(state, at, "certificate-invalid", "the serial number was used before", fields.child);
  state.serials.add(key);
  return chain;
}

/** A grant may give on only what its giver has. */
function beyondOwnGrant(at: Placed<"delegation">, party: PartyState, state: AuditState): string | undefined {
  const own = party.grant;
  if (!own) return party.id === state.rootParty ? undefined : "the party has accepted no grant itself";
  const { fields } = at.act;
  if (at.act.time < own.fields.notBefore || at.act.time > own.fields.notAfter)
    return "the party's own grant is not in force at this time";
  if (!fields.parentGrant || refKey(fields.parentGrant) !== refKey(own.ref))
    return "it doesn't name the party's own grant";
  if (own.fields.depth < 1 || fields.depth >= own.fields.depth) return "the party may not delegate on so deep";
  if (fields.pathLen >= own.fields.pathLen) return "its path length is not below the party's own";
  if (fields.notBefore < own.fields.notBefore || fields.notAfter > own.fields.notAfter)
    return "its window exceeds the party's own";
  if (fields.mayBuild && !own.fields.mayBuild) return "it allows building, which the party's own grant doesn't";
  const outside = fields.idPrefixes.find((prefix) => !own.fields.idPrefixes.some((p) => prefix.startsWith(p)));
  if (outside !== undefined) return `the prefix ${outside} lies outside the party's own namespace`;
  const profile = fields.profiles.find((p) => !own.fields.profiles.some((o) => o.sha256 === p.sha256));
  if (profile) return `the party may not use profile ${profile.name} itself`;
  return undefined;
}

/** What a renewal may change: the certificate (by whichever key its issuer has now), and how long the grant lasts. */
const RENEWED: readonly string[] = ["revision", "supersedes", "parentGrant", "issuer", "certificate", "notAfter"];
/** What a change of the child's key changes as well. */
const ROTATED: readonly string[] = [...RENEWED, "ca", "csrSha256", "nonceSha256"];

/** A revision of a grant gives nothing but time, and only one follows another. */
function renewalFault(at: Placed<"delegation">, party: PartyState, state: AuditState): string | undefined {
  const { fields } = at.act;
  if (fields.supersedes === undefined) {
    if (fields.ca !== undefined) return "a first grant is for the keyset's CA key";
    return fields.revision === 1 ? undefined : "it doesn't say which one it revises";
  }
  const before = state.grants.get(refKey(fields.supersedes));
  // Whether its child accepted that one is for the child's ledger to say, where this one is accepted after it.
  if (before?.by !== party.id || before.fields.child !== fields.child) return "it revises no grant of this party's";
  if (before.renewed || fields.revision !== before.fields.revision + 1) return "it isn't the next revision";
  before.renewed = true;
  if (isAnyTakenBack(before, party, state)) return "it revises a grant whose CA certificate is revoked or held";
  const rotates = grantedKey(fields) !== grantedKey(before.fields);
  if (rotates && fields.ca === undefined) return "the revision goes back to a CA key that was given up";
  const changing = rotates ? ROTATED : RENEWED;
  const fixed = (grant: Grant): Uint8Array =>
    canonicalJson(Object.fromEntries(Object.entries(grant).filter(([name]) => !changing.includes(name))));
  if (!equalBytes(fixed(before.fields), fixed(fields)))
    return "the revision changes more than the certificate and its time";
  return fields.notAfter < before.fields.notAfter ? "the revision takes time away" : undefined;
}

/** This revision's certificate, or that of one before it. */
function isAnyTakenBack(last: GrantState, party: PartyState, state: AuditState): boolean {
  for (let at: GrantState | undefined = last; at !== undefined;) {
    if (isTakenBack(state.seen.find(at.ref), party, state)) return true;
    at = at.fields.supersedes && state.grants.get(refKey(at.fields.supersedes));
  }
  return false;
}

export function onAcceptance(at: Placed<"acceptance">, party: PartyState, state: AuditState): void {
  const grant = at.act.grant && state.grants.get(refKey(at.act.grant));
  if (!grant || grant.fields.child !== party.id) {
    return wrong(state, at, "grant-missing", "it doesn't name a grant to this party");
  }
  if (!party.keysetAct || refKey(at.act.fields.keyset) !== refKey(party.keysetAct)) {
    return wrong(state, at, "keyset-invalid", "it doesn't name the party's own keyset act");
  }
  if (JSON.stringify(grant.fields.keyset) !== JSON.stringify(party.keyset)) {
    return wrong(state, at, "keyset-invalid", "the grant pins other keys than the party's own keyset act names");
  }
  if (sha256Hex(concatBytes(...grant.chain.map((c) => c.der))) !== at.act.fields.chainSha256) {
    return wrong(state, at, "certificate-invalid", "it accepts another chain than the grant's");
  }
  // A grant takes effect by its child's own signature: what a stranger delegates to a party changes nothing about it.
  const place = placeOf(grant, state);
  const renews = place !== undefined && party.grant !== undefined && refKey(place) === refKey(party.grant.ref);
  if (party.chain.length > 0 && !renews) {
    return wrong(state, at, "grant-exceeded", "the party has accepted another grant, or is the root's own");
  }
  const fault = acceptedKeyFault(grant, party);
  if (fault !== undefined) return wrong(state, at, "rotation-invalid", fault);
  grant.accepted = true;
  party.grant = grant;
  party.chain = grant.chain;
}
