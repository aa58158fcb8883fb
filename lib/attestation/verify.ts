import { equalBytes } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import type { VerifySignature } from "../domain/signing.ts";
import { keyAlgorithmOf } from "../pki/spki.ts";
import { ALG, hashOf } from "./algorithms.ts";
import { readCertifyInfo, readSignature, type CertifyInfo } from "./certify-info.ts";
import { validateEkCertificate, type EndorsedTpm } from "./ek-certificate.ts";
import { qualifiedNames, readPublic, type ObjectAttribute, type PublicArea } from "./public-area.ts";

/** What a device hands in, each structure as its TPM marshals it, without a TPM2B's length around it. */
export interface TpmEvidence {
  /** DER, the endorsement key's first, without the vendor's root */
  readonly ekCertificates: readonly Uint8Array[];
  /** TPMT_PUBLIC */
  readonly akPublic: Uint8Array;
  /** TPMT_PUBLIC of what the key lies under, from the primary key down; none for a primary key */
  readonly akParents: readonly Uint8Array[];
  readonly keyPublic: Uint8Array;
  readonly keyParents: readonly Uint8Array[];
  /** TPMS_ATTEST, as TPM2_Certify gives it */
  readonly attest: Uint8Array;
  /** TPMT_SIGNATURE */
  readonly signature: Uint8Array;
}

export interface TpmDemand {
  /** the one that this attestation was asked for with */
  readonly nonce: Uint8Array;
  /** DER SubjectPublicKeyInfo of the device's certification request */
  readonly spki: Uint8Array;
  /** DER, the TPM vendors' */
  readonly roots: readonly Uint8Array[];
  readonly at: Date;
  readonly verify: VerifySignature;
}

export interface TpmAttestation {
  readonly tpm: EndorsedTpm;
  readonly ak: PublicArea;
  readonly key: PublicArea;
  readonly info: CertifyInfo;
}

export const MAX_PARENTS = 4;
export const MAX_EK_CERTIFICATES = 5;

/**
 * Verifies that a TPM whose vendor certified it certifies, with this nonce, that the device's key was made in it and can't
 * leave it. That the attestation key lies in that very TPM is shown by who opens the credential made for both
 * ({@link makeCredential}): the caller checks that first.
 * @throws CountersignError `attestation-malformed`, `attestation-ek-untrusted`, `attestation-ak-unfit`,
 *   `attestation-signature-invalid`, `attestation-replayed`, `attestation-other-key`, `attestation-key-exportable`
 */
export async function verifyTpmAttestation(evidence: TpmEvidence, demand: TpmDemand): Promise<TpmAttestation> {
  const { ekCertificates, akParents, keyParents } = evidence;
  if (ekCertificates.length > MAX_EK_CERTIFICATES || Math.max(akParents.length, keyParents.length) > MAX_PARENTS) {
    throw new CountersignError(
      "attestation-malformed",
      "the evidence holds more certificates or parents than anyone needs",
    );
  }
  const ak = readPublic(evidence.akPublic, "the attestation key");
  const key = readPublic(evidence.keyPublic, "the device's key");
  const info = readCertifyInfo(evidence.attest);
  const tpm = await validateEkCertificate(ekCertificates, demand.roots, demand.at, demand.verify);
  checkAttestationKey(ak);
  await checkSignature(evidence, ak, demand.verify);
  checkSigner(info, ak, readParents(akParents, "attestation-ak-unfit"));
  if (!equalBytes(info.extraData, demand.nonce)) {
    throw new CountersignError(
      "attestation-replayed",
      "the attestation wasn't made for this challenge's nonce: have it made again",
    );
  }
  checkCertified(info, key, readParents(keyParents, "attestation-other-key"));
  if (!equalBytes(key.spki, demand.spki)) {
    throw new CountersignError(
      "attestation-other-key",
      "the attested key is not the one that the device's request is for",
    );
  }
  checkDeviceKey(key);
  return { tpm, ak, key, info };
}

/**
 * A key that signs nothing but what its TPM says itself: were it not restricted, a look-alike of an attestation could be
 * given to it to sign (Part 1 section 25.5).
 * @throws CountersignError `attestation-ak-unfit`
 */
export function checkAttestationKey({ attributes, scheme, spki }: PublicArea): void {
  const missing = lacking(attributes, ["restricted", "sign", "fixedTPM", "fixedParent", "sensitiveDataOrigin"]);
  if (missing !== undefined) throw unfit(`it isn't ${missing}`);
  if (attributes.has("decrypt")) throw unfit("it decrypts as well");
  const expected = keyAlgorithmOf(spki).startsWith("rsa-") ? ALG.rsassa : ALG.ecdsa;
  if (scheme.algorithm !== expected || hashOf(scheme.hash) === undefined) {
    throw unfit("it signs by neither RSASSA nor ECDSA with SHA-256, SHA-384 or SHA-512");
  }
}

async function checkSignature(
  { attest, signature: bytes }: TpmEvidence,
  { spki, scheme }: PublicArea,
  verify: VerifySignature,
): Promise<void> {
  const {
    algorithm,
    signature,
    scheme: used,
  } = readSignature(bytes, keyAlgorithmOf(spki) === "ec-p384" ? "p384" : "p256");
  const own = used.algorithm === scheme.algorithm && used.hash === scheme.hash;
  if (own && (await verify({ spki, algorithm, message: attest, signature })) === true) return;
  throw new CountersignError("attestation-signature-invalid", "the attestation is not signed by its attestation key");
}

function checkSigner({ qualifiedSigner }: CertifyInfo, ak: PublicArea, parents: readonly PublicArea[]): void {
  if (qualifiedNames(ak, parents).some((name) => equalBytes(name, qualifiedSigner))) return;
  throw unfit("its qualified name in the attestation is not the one that follows from it and what it lies under");
}

function checkCertified(info: CertifyInfo, key: PublicArea, parents: readonly PublicArea[]): void {
  if (!equalBytes(info.name, key.name)) {
    throw new CountersignError(
      "attestation-other-key",
      "the attestation is about another key than the one shown with it",
    );
  }
  if (qualifiedNames(key, parents).some((name) => equalBytes(name, info.qualifiedName))) return;
  throw new CountersignError(
    "attestation-other-key",
    "the key's qualified name in the attestation is not the one that follows from what it lies under",
  );
}

/** @throws CountersignError `attestation-key-exportable` */
function checkDeviceKey({ attributes }: PublicArea): void {
  const missing = lacking(attributes, ["fixedTPM", "fixedParent", "sensitiveDataOrigin", "sign"]);
  if (missing === undefined) return;
  throw new CountersignError(
    "attestation-key-exportable",
    missing === "sign"
      ? "the device's key doesn't sign: make it with sign set"
      : `the device's key could leave its TPM, or came from outside it (${missing} isn't set): make another in the TPM`,
  );
}

/** What lies above a key wraps it: each a storage key that can't leave its TPM. */
function readParents(
  parents: readonly Uint8Array[],
  code: "attestation-ak-unfit" | "attestation-other-key",
): PublicArea[] {
  return parents.map((bytes) => {
    const parent = readPublic(bytes, "a parent key");
    const missing = lacking(parent.attributes, ["restricted", "decrypt", "fixedTPM"]);
    if (missing !== undefined)
      throw new CountersignError(code, `what a key lies under is no storage key: it isn't ${missing}`);
    return parent;
  });
}

function lacking(
  attributes: ReadonlySet<ObjectAttribute>,
  needed: readonly ObjectAttribute[],
): ObjectAttribute | undefined {
  return needed.find((attribute) => !attributes.has(attribute));
}

function unfit(why: string): CountersignError {
  return new CountersignError("attestation-ak-unfit", `the attestation key is refused: ${why}`);
}
