import { z } from "zod";
import { toBase64 } from "../../../lib/domain/bytes.ts";
import { tpmEvidence } from "../../../lib/records/attestation.ts";
import { base64, deviceId, lotId } from "../../../lib/records/primitives.ts";
import { challengeDevice, recordAttestation } from "../../../services/attestation/attest.ts";
import { clientOf, requireClient } from "../../http/client.ts";
import { parseInput } from "../../http/input.ts";
import type { HttpsServer } from "../../http/server.ts";
import { lotParams, type LotDeps } from "./lot-deps.ts";

const { ekCertificates, ak, key, attest, signature } = tpmEvidence.shape;
const asked = z.strictObject({ deviceId, ekCertificates, akPublic: ak.shape.public });
const answered = z.strictObject({ secret: base64(64), akParents: ak.shape.parents, key, attest, signature });
const challengeParams = z.strictObject({ id: lotId, challenge: z.string().regex(/^[0-9a-f]{32}$/) });

/** Attestation of devices' keys: a challenge for a device's TPM, and its one answer. */
export function registerAttestations(app: HttpsServer, { custody }: LotDeps): void {
  const station = { preHandler: requireClient("station", "operator") };

  app.post("/api/v1/lots/:id/attestations", station, async (request, reply) => {
    const { id } = parseInput(lotParams, request.params, "path");
    const body = parseInput(asked, request.body, "request body");
    const challenge = await challengeDevice(custody, id, clientOf(request).spkiId, body);
    return reply.code(201).send({
      challenge: challenge.id,
      nonce: toBase64(challenge.nonce),
      idObject: toBase64(challenge.idObject),
      encryptedSecret: toBase64(challenge.encryptedSecret),
      expires: challenge.expires.toISOString(),
    });
  });

  app.post("/api/v1/lots/:id/attestations/:challenge", station, async (request) => {
    const { id, challenge } = parseInput(challengeParams, request.params, "path");
    const answer = parseInput(answered, request.body, "request body");
    const attested = await recordAttestation(custody, id, { id: challenge, asker: clientOf(request).spkiId }, answer);
    request.log.info({ lot: id, device: attested.deviceId, evidence: attested.evidence }, "device attested");
    return attested;
  });
}
