import { randomBytes } from "node:crypto";
import { nodeVerify } from "../../hsm/index.ts";
import {
  checkAttestationKey,
  ekSpkiOf,
  evidenceOf,
  makeCredential,
  readPublic,
  summaryOf,
  verifyTpmAttestation,
  validateEkCertificate,
} from "../../lib/attestation/index.ts";
import { fromBase64, fromHex, toHex } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { canonicalJson } from "../../lib/domain/json.ts";
import { attestationRecord, type AttestedFields, type TpmEvidenceRecord } from "../../lib/records/attestation.ts";
import {
  attestedDevices,
  insertAttestation,
  putChallenge,
  spendChallenge,
  type NewChallenge,
} from "../../store/attestations.ts";
import { inTransaction, type Db, type Tx } from "../../store/db.ts";
import { advanceDevices, lockForNextAct, type Device } from "../../store/devices.ts";
import { findCurrentGrant } from "../../store/grants.ts";
import { storeBlob } from "../../store/ledger.ts";
import { getLot, lockOpenLot, type Lot } from "../../store/lots.ts";
import { lotWorkflowId } from "../issuing/context.ts";
import { sha256Hex, type Acts } from "../ledger/index.ts";
import { nodeCredentialCrypto } from "./crypto.ts";

const DEADLINE_SECONDS = 300;
const SECRET_OCTETS = 32;

export interface AttestationContext {
  readonly db: Db;
  readonly acts: Acts;
  readonly party: string;
  readonly now?: () => Date;
}

export interface ChallengeRequest {
  readonly deviceId: string;
  /** base64 of DER, the endorsement key's first */
  readonly ekCertificates: readonly string[];
  /** base64 of TPMT_PUBLIC */
  readonly akPublic: string;
}

export interface Challenge {
  readonly id: string;
  /** qualifyingData of TPM2_Certify */
  readonly nonce: Uint8Array;
  /** TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET, for TPM2_ActivateCredential */
  readonly idObject: Uint8Array;
  readonly encryptedSecret: Uint8Array;
  readonly expires: Date;
}

export interface ChallengeAnswer {
  /** what TPM2_ActivateCredential gave, base64 */
  readonly secret: string;
  readonly akParents: readonly string[];
  readonly key: TpmEvidenceRecord["key"];
  readonly attest: string;
  readonly signature: string;
}

/**
 * Asks a device's TPM to prove that it holds the attestation key: a credential that only the endorsement key opens, and
 * only beside that key, and a nonce to certify the device's key with. One open challenge a device and asker.
 * @param asker SHA-256 of the SPKI of the client that asks: it alone answers, and nobody else's asking undoes it
 * @throws CountersignError `attestation-unasked`, `attestation-ek-untrusted`, `attestation-ak-unfit`,
 *   `attestation-malformed`, `lot-not-found`, `lot-not-open`, `device-not-in-lot`, `custody-conflict`, `key-unsupported`
 */
export async function challengeDevice(
  context: AttestationContext,
  lotId: string,
  asker: string,
  request: ChallengeRequest,
): Promise<Challenge> {
  const lot = await getLot(context.db, lotId);
  const { vendorRoots, deadline } = demandOf(context, lot);
  const ekCertificates = request.ekCertificates.map(fromBase64);
  const ak = readPublic(fromBase64(request.akPublic), "the attestation key");
  checkAttestationKey(ak);
  await validateEkCertificate(ekCertificates, vendorRoots.map(fromBase64), nowOf(context), nodeVerify);
  const [nonce, secret] = [randomBytes(32), randomBytes(SECRET_OCTETS)];
  const { idObject, encryptedSecret } = makeCredential(
    ekSpkiOf(ekCertificates[0]!),
    ak.name,
    secret,
    nodeCredentialCrypto,
  );
  const id = randomBytes(16).toString("hex");
  const asked = { ekCertificates: request.ekCertificates, akPublic: request.akPublic };
  const secretSha256 = fromHex(sha256Hex(secret));
  const expires = await inTransaction(context.db, async (tx) => {
    await lockOpenLot(tx, lotId);
    await heldDevice(tx, lot, request.deviceId);
    const challenge = { id, asker, device: request.deviceId, lot: lotId, nonce, secretSha256, asked };
    return await putChallenge(tx, challenge, deadline ?? DEADLINE_SECONDS);
  });
  return { id, nonce, idObject, encryptedSecret, expires };
}

/**
 * Verifies a device's answer and records it: evidence beside the ledger, and an `attested` act that continues the
 * device's history. A challenge takes one answer, good or bad; a device that is attested already has its first answer.
 * @throws CountersignError `attestation-unasked`, `attestation-replayed`, `attestation-expired`,
 *   `attestation-not-activated`, those of {@link verifyTpmAttestation}, and of {@link challengeDevice}
 */
export async function recordAttestation(
  context: AttestationContext,
  lotId: string,
  which: { readonly id: string; readonly asker: string },
  answer: ChallengeAnswer,
): Promise<{ deviceId: string; evidence: string }> {
  const challenge = await takeChallenge(context.db, lotId, which);
  const lot = await getLot(context.db, lotId);
  const { vendorRoots } = demandOf(context, lot);
  if (sha256Hex(fromBase64(answer.secret)) !== toHex(challenge.secretSha256)) {
    throw new CountersignError(
      "attestation-not-activated",
      "the secret isn't the one that was encrypted for this TPM: the attestation key lies in another, or in none",
    );
  }
  const deviceId = challenge.device;
  const { secret: _secret, akParents, ...signed } = answer;
  const { ekCertificates, akPublic } = challenge.asked;
  const record = attestationRecord.parse({
    schema: 1,
    kind: "tpm2",
    deviceId,
    lot: lotId,
    nonce: toHex(challenge.nonce),
    evidence: { ekCertificates, ak: { public: akPublic, parents: akParents }, ...signed },
  });
  const evidence = evidenceOf(record.evidence);
  const known = await inTransaction(context.db, (tx) => heldDevice(tx, lot, deviceId));
  const verified = await verifyTpmAttestation(evidence, {
    nonce: challenge.nonce,
    spki: keyOfDevice(known, evidence.keyPublic),
    roots: vendorRoots.map(fromBase64),
    at: nowOf(context),
    verify: nodeVerify,
  });
  const bytes = canonicalJson(record);
  const evidenceSha256 = sha256Hex(bytes);
  const grant = await findCurrentGrant(context.db);
  await inTransaction(context.db, async (tx) => {
    await lockOpenLot(tx, lotId);
    const device = await heldDevice(tx, lot, deviceId);
    const fields: AttestedFields = { lot: lotId, slot: device.slot, evidence: evidenceSha256, ...summaryOf(verified) };
    await storeBlob(tx, fromHex(evidenceSha256), bytes);
    const act = await context.acts.recordLine(tx, {
      type: "attested",
      workflowId: lotWorkflowId(lotId),
      stepKey: `attested/${deviceId}`,
      subject: [{ name: deviceId, digest: { sha256: device.spkiSha256 } }],
      ...(grant === undefined ? {} : { grant: grant.ref }),
      prev: [device.prev],
      blobs: [{ name: "attestation", sha256: evidenceSha256, size: bytes.length }],
      fields,
    });
    await insertAttestation(tx, { device: deviceId, evidenceSha256, leafHash: act.leafHash });
    await advanceDevices(tx, device.stage, context.acts.origin, [{ id: deviceId, leafHash: act.leafHash }]);
  });
  return { deviceId, evidence: evidenceSha256 };
}

async function takeChallenge(
  db: Db,
  lot: string,
  { id, asker }: { readonly id: string; readonly asker: string },
): Promise<NewChallenge> {
  // Its own transaction: what is refused below has used the challenge up.
  const taken = await spendChallenge(db, { id, lot, asker });
  if (taken.state === "taken") return taken.challenge;
  if (taken.state === "spent") {
    throw new CountersignError("attestation-replayed", `the challenge ${id} was answered before: ask for a new one`);
  }
  if (taken.state === "expired") {
    throw new CountersignError(
      "attestation-expired",
      `the challenge ${id} was to be answered earlier: ask for a new one`,
    );
  }
  throw new CountersignError(
    "attestation-unasked",
    `this client asked for no challenge ${id} of lot ${lot}: ask for one`,
  );
}

/** @throws CountersignError `attestation-unasked` where the lot needs none, `custody-conflict` where another site issues */
function demandOf({ party }: AttestationContext, { id, issuer, certificate }: Lot) {
  if (certificate.attestation === undefined) {
    throw new CountersignError(
      "attestation-unasked",
      `the lot ${id} asks for no attestation: have its devices certified`,
    );
  }
  if (issuer === party) return certificate.attestation;
  throw new CountersignError(
    "custody-conflict",
    `the devices of lot ${id} are attested at ${issuer}, which certifies them`,
  );
}

/** The device, locked, before its certificate. @throws CountersignError */
async function heldDevice(tx: Tx, lot: Lot, deviceId: string): Promise<Device> {
  const device = (await lockForNextAct(tx, [deviceId]))[0];
  if (device === undefined || device.lot !== lot.id) {
    throw new CountersignError(
      "device-not-in-lot",
      `device ${deviceId} is not in lot ${lot.id} here: build or receive it first`,
    );
  }
  if (!device.held) {
    throw new CountersignError("custody-conflict", `device ${deviceId} was handed on: its new holder attests it`);
  }
  if ((await attestedDevices(tx, [deviceId])).size > 0) {
    throw new CountersignError("already-exists", `device ${deviceId} is attested already: have it certified`);
  }
  if (device.stage === "built" || device.stage === "received") return device;
  throw new CountersignError(
    "state-conflict",
    `device ${deviceId} is ${device.stage}: it is attested before it is certified`,
  );
}

/** @throws CountersignError `attestation-other-key`, `attestation-malformed` */
function keyOfDevice(device: Device, keyPublic: Uint8Array): Uint8Array {
  const { spki } = readPublic(keyPublic, "the device's key");
  if (sha256Hex(spki) === device.spkiSha256) return spki;
  throw new CountersignError(
    "attestation-other-key",
    `the attested key is not the one that device ${device.id} was built with`,
  );
}

const nowOf = (context: AttestationContext): Date => (context.now ?? (() => new Date()))();
