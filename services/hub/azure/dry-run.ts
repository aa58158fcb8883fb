import { createHash } from "node:crypto";
import type { Rest, RestAnswer, RestRequest, RestService } from "./rest.ts";

export interface PlannedRequest {
  readonly method: string;
  readonly url: string;
  readonly ifMatch?: string | undefined;
  readonly body?: unknown;
}

/** Stands for what only the service can say. */
export const PLANNED_CODE = "VERIFICATIONCODE";
const PLANNED_ETAG = "ETAG";

/**
 * A way to services that sends nothing: notes what would be sent, without its authorization, and answers as services
 * would that hold nothing but what it was given.
 */
export function dryRun(): { make: (service: RestService) => Rest; requests: PlannedRequest[] } {
  const requests: PlannedRequest[] = [];
  const held = new Map<string, unknown>();
  const make = (service: RestService): Rest => {
    const at = (path: string): string => `${service.url}${path}?api-version=${service.apiVersion}`;
    return async ({ method, path, ifMatch, body }) => {
      requests.push({
        method,
        url: at(path),
        ...(ifMatch === undefined ? {} : { ifMatch }),
        ...(body === undefined ? {} : { body }),
      });
      return answer(held, { method, path, body }, (one) => at(one));
    };
  };
  return { make, requests };
}

function answer(
  held: Map<string, unknown>,
  { method, path, body }: RestRequest,
  at: (path: string) => string,
): RestAnswer {
  const own = path.replace(/\/(generateVerificationCode|verify)$/, "");
  const entry = held.get(at(own)) as Record<string, unknown> | undefined;
  if (method === "PUT") {
    const made = path.includes("/certificates/") ? certificate(body) : { ...(body as object), etag: PLANNED_ETAG };
    held.set(at(path), made);
    return { status: 200, body: made };
  }
  if (method === "POST") {
    const properties = entry?.["properties"] as object;
    const more = path.endsWith("/verify") ? { isVerified: true } : { verificationCode: PLANNED_CODE };
    const changed = { ...entry, properties: { ...properties, ...more } };
    held.set(at(own), changed);
    return { status: 200, body: changed };
  }
  if (entry === undefined) return { status: 404, body: undefined };
  return { status: 200, body: entry };
}

function certificate(body: unknown): object {
  const { properties } = body as { properties: { certificate: string } };
  const pem = Buffer.from(properties.certificate, "base64").toString("latin1");
  const der = Buffer.from(pem.replaceAll(/-----[A-Z ]+-----|\s/g, ""), "base64");
  const thumbprint = createHash("sha1").update(der).digest("hex");
  return { etag: PLANNED_ETAG, properties: { thumbprint, isVerified: false } };
}
