import { CountersignError } from "../../lib/domain/errors.ts";
import { partyPolicies } from "../../lib/ledger/audit/begin.ts";
import { factsOfPassport } from "../../lib/ledger/passport-facts.ts";
import { policyDigest, verifyPassport } from "../../lib/ledger/passport.ts";
import { parseCertificate } from "../../lib/pki/certificate.ts";
import { webCryptoVerify } from "../../lib/pki/verify.ts";
import type { DeviceFacts } from "../../lib/records/group-query.ts";
import { MAX_PASSPORT_BYTES } from "../../lib/records/passport.ts";
import { policy as policySchema } from "../../lib/records/policy.ts";
import { sha256Hex } from "../../services/ledger/sha256.ts";
import type { Db } from "../../store/db.ts";
import {
  type Custody,
  type HubTrust,
  putCustody,
  putTrust,
  readCustody,
  readTrust,
  removeCustody,
} from "../../store/hub-custody.ts";
import { z } from "zod";
import { clientOf, requireClient } from "../http/client.ts";
import { parseInput, rawBody } from "../http/input.ts";
import type { HttpsServer } from "../http/server.ts";
import { DeviceParams, found, Pem } from "./api.ts";
import type { Registry } from "./registry.ts";
import { caCertificate } from "./registration.ts";

const TrustBody = z.strictObject({ root: Pem, policy: policySchema });

/** Custody facts: from passports that are verified here, against the root and the ledgers' keys that an operator named. */
export function passportsApi(server: HttpsServer, hub: { db: Db; registry: Registry }): void {
  const { db, registry } = hub;
  const operator = { onRequest: requireClient("operator") };
  const trust = async (): Promise<HubTrust> => {
    const known = await readTrust(db);
    if (known !== undefined) return known;
    const message = "this hub doesn't know what to verify passports against: `countersign hub passports trust`";
    throw new CountersignError("state-conflict", message);
  };

  server.get("/api/v1/passport-trust", operator, async () => shownTrust(await trust()));
  server.put("/api/v1/passport-trust", operator, async (request) => {
    const { root, policy } = parseInput(TrustBody, request.body, "request body");
    const certificate = caCertificate(root, new Date());
    if (sha256Hex(certificate.der) !== policy.rootSha256) {
      throw new CountersignError("policy-invalid", "the policy pins another root than the one given");
    }
    // Throws for a log's policy that can't be read.
    partyPolicies(policy);
    const setBy = clientOf(request).commonName;
    const set = await putTrust(db, { root: certificate.der, policy, policySha256: policyDigest(policy), setBy });
    await registry.reload();
    request.log.warn({ policySha256: set.policySha256, by: setBy }, "passports are verified against another policy");
    return shownTrust(set);
  });

  server.post("/api/v1/passports", { ...operator, bodyLimit: MAX_PASSPORT_BYTES }, async (request, reply) => {
    const bytes = rawBody(request);
    const { root, policy, policySha256 } = await trust();
    const anchor = parseCertificate(root);
    const verdict = await verifyPassport(bytes, anchor, policy, webCryptoVerify);
    if (!verdict.ok) {
      throw new CountersignError("passport-invalid", verdict.message, { details: { reason: verdict.code } });
    }
    const { deviceId, spkiSha256: keySha256 } = verdict;
    const facts = factsOfPassport(bytes, anchor, verdict);
    const takenBy = clientOf(request).commonName;
    const sizes = Object.fromEntries(verdict.ledgers.map(({ origin, size }) => [origin, size]));
    const passportSha256 = sha256Hex(bytes);
    const kept = await putCustody(db, { deviceId, keySha256, policySha256, passportSha256, facts, sizes, takenBy });
    if (kept === undefined) {
      const message = `a later passport of ${deviceId} is there: to take this one, remove that first`;
      throw new CountersignError("state-conflict", message);
    }
    await registry.recheck([deviceId]);
    return reply.code(201).send(shown(kept));
  });
  server.get("/api/v1/passports/:id", operator, async (request) => {
    const { id } = parseInput(DeviceParams, request.params, "path");
    return shown(found((await readCustody(db, [id])).get(id), `passport of ${id}`));
  });
  server.delete("/api/v1/passports/:id", operator, async (request, reply) => {
    const { id } = parseInput(DeviceParams, request.params, "path");
    found((await removeCustody(db, id)) || undefined, `passport of ${id}`);
    await registry.recheck([id]);
    return reply.code(204).send();
  });
}

function shownTrust({ root, policy, policySha256, setBy, setAt }: HubTrust): Record<string, unknown> {
  return { rootSha256: sha256Hex(root), policySha256, logs: Object.keys(policy.logs), setBy, setAt };
}

function shown({ facts, sizes: _proven, ...custody }: Custody): Record<string, unknown> {
  return { ...custody, facts: readable(facts) };
}

function readable(facts: DeviceFacts): Record<string, unknown> {
  const entries = Object.entries(facts as Record<string, string | number | string[]>);
  return Object.fromEntries(
    entries.map(([name, fact]) => [name, typeof fact === "number" ? new Date(fact).toISOString() : fact]),
  );
}
