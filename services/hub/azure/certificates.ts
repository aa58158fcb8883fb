import { createHash } from "node:crypto";
import { z } from "zod";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { pemDecode, pemEncode } from "../../../lib/pki/pem.ts";
import { toBase64, utf8 } from "../../../lib/domain/bytes.ts";
import type { CaRegistry, CodeOffer, HubCaView, OfferedCa } from "../registry.ts";
import { unreachable, type Rest, type RestAnswer } from "./rest.ts";

/** Of what the services answer only what is used here; they may say more. */
const description = z.object({
  name: z.string().max(256).optional(),
  etag: z.string().max(256).optional(),
  properties: z.object({
    thumbprint: z
      .string()
      .regex(/^[0-9A-Fa-f]{40}$/)
      .optional(),
    isVerified: z.boolean().optional(),
    certificate: z.string().max(65_536).optional(),
    verificationCode: z
      .string()
      .regex(/^[A-Za-z0-9]{8,128}$/)
      .optional(),
  }),
});
const listing = z.object({ value: z.array(description).max(1000) });
type Description = z.output<typeof description>;

/** What Azure sends for a certificate, and takes. */
const encoded = (der: Uint8Array): string => toBase64(utf8(pemEncode("CERTIFICATE", der)));
const thumbprint = (der: Uint8Array): string => createHash("sha1").update(der).digest("hex");

/**
 * The certificates of an IoT Hub or of a provisioning service: both have the same interface, each its own entries,
 * codes and proofs.
 * @param base the resource's path, percent-encoded
 */
export function azureCertificates(rest: Rest, base: string, place: string): CaRegistry {
  const at = (name: string, verb = ""): string => `${base}/certificates/${encodeURIComponent(name)}${verb}`;

  async function find(name: string): Promise<Description | undefined> {
    const answer = await rest({ method: "GET", path: at(name) });
    return answer.status === 404 ? undefined : described(answer);
  }

  function described(answer: RestAnswer): Description {
    assertDone(answer);
    const parsed = description.safeParse(answer.body);
    if (!parsed.success) throw unreachable(place, "its answer isn't a certificate's description");
    const etag = parsed.data.etag ?? answer.etag;
    return { ...parsed.data, ...(etag === undefined ? {} : { etag }) };
  }

  /** Somebody was quicker, or a former attempt got through without our hearing of it: what is there now decides. */
  function assertDone({ status }: RestAnswer): void {
    if (status >= 200 && status < 300) return;
    if (status === 404) throw new CountersignError("hub-busy", `${place}: the certificate was removed meanwhile`);
    throw new CountersignError("hub-busy", `${place}: the certificate was changed meanwhile (${status})`);
  }

  function assertOurs(found: Description, ca: OfferedCa): void {
    if (isSame(found, ca.certificate)) return;
    const other = found.properties.thumbprint ?? "?";
    throw new CountersignError("state-conflict", `${place} has another certificate as ${ca.name}: SHA-1 ${other}`);
  }

  async function uploaded(ca: OfferedCa): Promise<Description> {
    const found = await find(ca.name);
    if (found !== undefined) return found;
    const body = { properties: { certificate: encoded(ca.certificate) } };
    const answer = await rest({ method: "PUT", path: at(ca.name), body });
    const made = answer.status === 409 || answer.status === 412 ? await find(ca.name) : described(answer);
    if (made === undefined) throw new CountersignError("hub-busy", `${place}: the certificate was removed meanwhile`);
    return made;
  }

  return {
    place,

    async offer(ca) {
      const entry = await uploaded(ca);
      assertOurs(entry, ca);
      if (entry.properties.isVerified === true) return undefined;
      const path = at(ca.name, "/generateVerificationCode");
      const { etag, properties } = described(await rest({ method: "POST", path, ifMatch: tagOf(entry) }));
      if (properties.verificationCode === undefined) throw unreachable(place, "it gave no verification code");
      return { code: properties.verificationCode, ...(etag === undefined ? {} : { etag }) };
    },

    async verify(ca, offer: CodeOffer, verification) {
      const body = { certificate: encoded(verification) };
      const answer = await rest({ method: "POST", path: at(ca.name, "/verify"), ifMatch: offer.etag ?? "*", body });
      const now = answer.status < 300 ? described(answer) : await find(ca.name);
      if (now === undefined) assertDone({ status: 404, body: undefined });
      else {
        assertOurs(now, ca);
        if (now.properties.isVerified !== true)
          assertDone(answer.status < 300 ? { status: 412, body: undefined } : answer);
      }
    },

    async list() {
      const answer = await rest({ method: "GET", path: `${base}/certificates` });
      assertDone(answer);
      const parsed = listing.safeParse(answer.body);
      if (!parsed.success) throw unreachable(place, "its answer isn't a list of certificates");
      return parsed.data.value.map((one) => view(place, one));
    },

    async remove(name) {
      const found = await find(name);
      if (found === undefined) return false;
      const answer = await rest({ method: "DELETE", path: at(name), ifMatch: tagOf(found) });
      if (answer.status === 409) {
        throw new CountersignError(
          "state-conflict",
          `${place}: ${name} is in use there, by an enrollment group perhaps`,
        );
      }
      if (answer.status !== 404) assertDone(answer);
      return true;
    },
  };
}

function tagOf({ etag }: Description): string {
  return etag ?? "*";
}

/** By its bytes where the service shows them, by its SHA-1 otherwise: that one only recognises what we put there. */
function isSame({ properties }: Description, der: Uint8Array): boolean {
  if (properties.thumbprint !== undefined) return properties.thumbprint.toLowerCase() === thumbprint(der);
  if (properties.certificate === undefined) return false;
  const bytes = Buffer.from(properties.certificate, "base64");
  const text = bytes.toString("latin1");
  const shown = text.includes("-----BEGIN") ? pemDecode(text, "CERTIFICATE")[0] : bytes;
  return shown !== undefined && Buffer.from(der).equals(shown);
}

function view(place: string, { name, etag, properties }: Description): HubCaView {
  return {
    place,
    name: name ?? "?",
    verified: properties.isVerified === true,
    thumbprint:
      properties.thumbprint === undefined
        ? undefined
        : { algorithm: "sha1", value: properties.thumbprint.toLowerCase() },
    ...(etag === undefined ? {} : { etag }),
  };
}
