import { equalBytes, fromBase64, toBase64, utf8, fromUtf8 } from "../../lib/domain/bytes.ts";
import { CountersignError, isCountersignError } from "../../lib/domain/errors.ts";
import { sha256 } from "../../lib/domain/hash.ts";
import type { VerifySignature } from "../../lib/domain/signing.ts";
import { openCheckpoint, signCheckpoint } from "../../lib/ledger/checkpoint.ts";
import { ed25519Spki, KEY_TYPE, parseVkey } from "../../lib/ledger/note.ts";
import { isSignedBy } from "../../lib/pki/algorithms.ts";
import { parseCertificate } from "../../lib/pki/certificate.ts";
import { imageKeyProofMessage, imageKeyProven, keysetProofMessage, type Keyset } from "../../lib/records/keyset.ts";
import { sha256Hex } from "../ledger/sha256.ts";
import { logVkey, witnessVkey, type Identity } from "./identity.ts";

/** A party's published keys with a proof of possession for each: made for oneself, checked for others. */

const EMPTY_ROOT = sha256(new Uint8Array(0));

/** @param ca the CA key and what shows its possession: the request it signed, or its self-signed certificate */
export async function makeKeyset(
  identity: Identity,
  ca: { spki: Uint8Array; kind: "csr" | "self-signed"; der: Uint8Array },
): Promise<Keyset> {
  const keys = {
    party: identity.party,
    ca: toBase64(ca.spki),
    act: toBase64(identity.act.spki),
    infrastructure: toBase64(identity.infrastructure.spki),
    ...(identity.imageSigning === undefined ? {} : { imageSigning: toBase64(identity.imageSigning.spki) }),
    log: { origin: identity.origin, vkey: logVkey(identity) },
    witness: { vkey: witnessVkey(identity) },
  };
  const checkpoint = await signCheckpoint({ origin: identity.origin, size: 0, root: EMPTY_ROOT }, identity.log);
  return {
    ...keys,
    proofs: {
      ca: { kind: ca.kind, sha256: sha256Hex(ca.der) },
      infrastructure: { certificateSha256: sha256Hex(identity.infrastructure.certificate) },
      log: { checkpoint: fromUtf8(checkpoint) },
      witness: { signature: toBase64(await identity.witness.sign(keysetProofMessage(keys))) },
      ...(identity.imageSigning === undefined
        ? {}
        : { imageSigning: { signature: toBase64(await identity.imageSigning.sign(imageKeyProofMessage(keys))) } }),
    },
  };
}

/**
 * Checks every proof of another party's keyset but the act key's (the signature on what carries it).
 * @param evidence what lies beside: the CA's request that it names and the infrastructure CA's certificate, DER
 * @throws CountersignError `possession-unproven`
 */
export async function checkKeyset(
  keyset: Keyset,
  evidence: { csr: Uint8Array; infrastructure: Uint8Array },
  verify: VerifySignature,
): Promise<void> {
  const refuse = (why: string): CountersignError =>
    new CountersignError("possession-unproven", `the keyset of ${keyset.party} doesn't hold: ${why}`);
  try {
    const { imageSigning } = keyset;
    const roles = [keyset.ca, keyset.act, keyset.infrastructure, ...(imageSigning === undefined ? [] : [imageSigning])];
    if (new Set(roles).size !== roles.length) throw refuse("one key has two roles");
    if (keyset.proofs.ca.kind !== "csr" || keyset.proofs.ca.sha256 !== sha256Hex(evidence.csr)) {
      throw refuse("its CA key's proof isn't the request that came with it");
    }
    await checkInfrastructure(keyset, evidence.infrastructure, verify, refuse);
    if (!(await imageKeyProven(keyset, verify))) throw refuse("its image-signing key's proof doesn't verify");

    const log = parseVkey(keyset.log.vkey);
    if (log.type !== KEY_TYPE.ed25519 || log.name !== keyset.log.origin) throw refuse("its log key isn't its log's");
    const first = await openCheckpoint(utf8(keyset.proofs.log.checkpoint), log, verify);
    if (first.size !== 0) throw refuse("its log key's proof isn't a checkpoint of size 0");

    const witness = parseVkey(keyset.witness.vkey);
    if (witness.type !== KEY_TYPE.cosignature) throw refuse("its witness key isn't one for cosignatures");
    if (equalBytes(witness.publicKey, log.publicKey)) throw refuse("its log and witness keys are one");
    const proven = await verify({
      spki: ed25519Spki(witness.publicKey),
      algorithm: "ed25519",
      message: keysetProofMessage(keyset),
      signature: fromBase64(keyset.proofs.witness.signature),
    });
    if (!proven) throw refuse("its witness key's proof doesn't verify");
  } catch (error) {
    if (!isCountersignError(error) || error.code === "possession-unproven") throw error;
    throw new CountersignError("possession-unproven", `the keyset of ${keyset.party} doesn't hold: ${error.message}`, {
      cause: error,
    });
  }
}

async function checkInfrastructure(
  keyset: Keyset,
  der: Uint8Array,
  verify: VerifySignature,
  refuse: (why: string) => CountersignError,
): Promise<void> {
  if (keyset.proofs.infrastructure.certificateSha256 !== sha256Hex(der)) {
    throw refuse("its infrastructure CA certificate isn't the one that came with it");
  }
  const certificate = parseCertificate(der);
  if (toBase64(certificate.spki) !== keyset.infrastructure)
    throw refuse("its infrastructure certificate has another key");
  const selfSigned = await isSignedBy(certificate, certificate.spki, verify);
  if (!certificate.selfIssued || !selfSigned || certificate.basicConstraints?.ca !== true) {
    throw refuse("its infrastructure certificate isn't a self-signed CA's");
  }
}
