import type { ServerResponse } from "node:http";
import { z } from "zod";
import { CountersignError, errorCodeOf } from "../../lib/domain/errors.ts";
import { parseCertificate } from "../../lib/pki/certificate.ts";
import { pemDecode } from "../../lib/pki/pem.ts";
import { fromBase64 } from "../../lib/domain/bytes.ts";
import type { Db } from "../../store/db.ts";
import { removeCa, setCaDisabled, setCaEnrolment } from "../../store/hub-cas.ts";
import {
  addBlock,
  findCrl,
  type FollowedCrl,
  followCrl,
  listBlocks,
  listCrls,
  removeBlock,
  unfollowCrl,
} from "../../store/hub-revocations.ts";
import { clientOf, requireClient } from "../http/client.ts";
import { parseInput } from "../http/input.ts";
import type { HttpsServer } from "../http/server.ts";
import { CaName, CaParams, EnrolmentBody, found, Pem, shownCa } from "./api.ts";
import { type CrlFollower, crlBytes, takeAnyCrl, takeCrl } from "./crls.ts";
import { linkOf, type Registry } from "./registry.ts";

const Digest = z.string().regex(/^[0-9a-f]{64}$/, "a SHA-256 as 64 lower-case hex digits");
const Kind = z.enum(["certificate", "key"]);
const Source = z.enum(["operator", "revocation"]);
const Reason = z.string().min(1).max(200);
const BlockBody = z.union([
  z.strictObject({ certificate: Pem, kind: Kind.optional(), reason: Reason }),
  z.strictObject({ sha256: Digest, kind: Kind, reason: Reason }),
]);
const CrlBody = z.strictObject({
  name: CaName,
  issuer: Pem,
  url: z
    .url({ protocol: /^https?$/ })
    .max(1000)
    .optional(),
});
const PushBody = z.strictObject({ crl: z.string().min(1).max(6_000_000) });

/** CRLs that come at once, of those that anybody may bring: who holds these places delays a list that is fetched as well. */
const MAX_COMING = 8;
const MAX_BLOCKS = 100_000;
const MAX_CRLS = 200;
const PUSH_LIMIT = 6 << 20;

/**
 * Who is kept out: disabling, enabling and removing CAs, blocking certificates and keys, following CRLs. What is kept
 * out is cut off by the time these answer, in this process; in the hub's others a moment later.
 */
export function revocationApi(server: HttpsServer, hub: { db: Db; registry: Registry; follower: CrlFollower }): void {
  const { db, registry, follower } = hub;
  const operator = { onRequest: requireClient("operator") };

  for (const verb of ["disable", "enable"] as const) {
    server.post(`/api/v1/cas/:name/${verb}`, operator, async (request) => {
      const { name } = parseInput(CaParams, request.params, "path");
      const ca = found(await setCaDisabled(db, name, verb === "disable"), `CA ${name}`);
      await registry.reload();
      request.log.warn({ ca: name, by: clientOf(request).commonName }, `CA ${verb}d`);
      return shownCa(ca);
    });
  }
  server.put("/api/v1/cas/:name/enrolment", operator, async (request) => {
    const { name } = parseInput(CaParams, request.params, "path");
    const { enrolment } = parseInput(EnrolmentBody, request.body, "request body");
    const ca = found(await setCaEnrolment(db, name, enrolment), `CA ${name}`);
    await registry.reload();
    return shownCa(ca);
  });
  server.delete("/api/v1/cas/:name", operator, async (request, reply) => {
    const { name } = parseInput(CaParams, request.params, "path");
    found((await removeCa(db, name)) || undefined, `CA ${name}`);
    await registry.reload();
    request.log.warn({ ca: name, by: clientOf(request).commonName }, "CA removed");
    return reply.code(204).send();
  });

  server.get("/api/v1/blocks", operator, async () => ({ blocks: await listBlocks(db) }));
  server.post("/api/v1/blocks", operator, async (request, reply) => {
    const body = parseInput(BlockBody, request.body, "request body");
    const { source } = parseInput(z.strictObject({ source: Source.default("operator") }), request.query, "query");
    if ((await listBlocks(db)).length >= MAX_BLOCKS) {
      throw new CountersignError("hub-refused", `this hub blocks at most ${MAX_BLOCKS} certificates and keys`);
    }
    const blockedBy = clientOf(request).commonName;
    const block = await addBlock(db, { ...blocked(body), source, reason: body.reason, blockedBy });
    await registry.reload();
    request.log.warn({ ...block }, "blocked");
    return reply.code(201).send(block);
  });
  server.delete("/api/v1/blocks/:sha256", operator, async (request, reply) => {
    const { sha256 } = parseInput(z.strictObject({ sha256: Digest }), request.params, "path");
    const { source } = parseInput(z.strictObject({ source: Source.optional() }), request.query, "query");
    found((await removeBlock(db, sha256, source)) || undefined, `block of ${sha256}`);
    await registry.reload();
    request.log.warn({ sha256, by: clientOf(request).commonName }, "block removed");
    return reply.code(204).send();
  });

  server.get("/api/v1/crls", operator, async () => ({ crls: (await listCrls(db)).map(shownCrl) }));
  server.post("/api/v1/crls", operator, async (request, reply) => {
    const { name, issuer, url } = parseInput(CrlBody, request.body, "request body");
    const all = await listCrls(db);
    if (all.length >= MAX_CRLS && !all.some((one) => one.name === name)) {
      throw new CountersignError("hub-refused", `this hub follows at most ${MAX_CRLS} CRLs`);
    }
    await followCrl(db, { name, url: url ?? null, issuer: oneCertificate(issuer) });
    return reply.code(201).send(shownCrl(found(await findCrl(db, name), `CRL ${name}`)));
  });
  server.put("/api/v1/crls/:name", { ...operator, bodyLimit: PUSH_LIMIT }, async (request) => {
    const { name } = parseInput(CaParams, request.params, "path");
    const { crl } = parseInput(PushBody, request.body, "request body");
    const der = crlBytes(crl.startsWith("-----") ? Buffer.from(crl, "latin1") : fromBase64(crl));
    const taken = await takeCrl(db, name, der, new Date());
    await registry.reload();
    return { ...shownCrl(found(await findCrl(db, name), `CRL ${name}`)), taken };
  });
  // Without a client certificate: the CRL is signed by its CA, and only one that is newer changes anything.
  let coming = 0;
  const few = async (_request: unknown, { raw }: { raw: ServerResponse }): Promise<void> => {
    if (coming >= MAX_COMING) throw new CountersignError("component-unreachable", "too many CRLs come at once: later");
    // From before its body is read until it is answered, or gone.
    coming++;
    raw.once("close", () => coming--);
  };
  server.post("/api/v1/crl-updates", { onRequest: few, bodyLimit: PUSH_LIMIT }, async (request) => {
    const { crl } = parseInput(PushBody, request.body, "request body");
    const der = crlBytes(fromBase64(crl));
    const take = (): Promise<boolean> => takeAnyCrl(db, der, new Date());
    const taken = await take().catch(async (error: unknown) => {
      if (errorCodeOf(error) !== "not-found") throw error;
      // A CA may be younger than the last look at its site.
      await follower.lookNow();
      return take();
    });
    if (taken) await registry.reload();
    return { taken };
  });
  server.delete("/api/v1/crls/:name", operator, async (request, reply) => {
    const { name } = parseInput(CaParams, request.params, "path");
    found((await unfollowCrl(db, name)) || undefined, `CRL ${name}`);
    await registry.reload();
    return reply.code(204).send();
  });
}

/** A CA is kept out with all certificates for its key, a device's certificate by itself, unless it is said otherwise. */
function blocked(body: z.output<typeof BlockBody>): {
  kind: "certificate" | "key";
  sha256: string;
  name: string | null;
} {
  if (!("certificate" in body)) return { kind: body.kind, sha256: body.sha256, name: null };
  const certificate = parseCertificate(oneCertificate(body.certificate));
  const kind = body.kind ?? (certificate.basicConstraints?.ca === true ? "key" : "certificate");
  const { sha256, keyId } = linkOf(certificate);
  return { kind, sha256: kind === "key" ? keyId : sha256, name: certificate.subject.cn?.slice(0, 200) ?? null };
}

function oneCertificate(pem: string): Uint8Array {
  const [der, more] = pemDecode(pem, "CERTIFICATE");
  if (der === undefined || more !== undefined) {
    throw new CountersignError("input-invalid", "exactly one PEM certificate is wanted");
  }
  parseCertificate(der);
  return der;
}

function shownCrl({ name, url, thisUpdate, nextUpdate, fault, lookedAt }: FollowedCrl): Record<string, unknown> {
  return { name, url, thisUpdate, nextUpdate, fault, lookedAt };
}
