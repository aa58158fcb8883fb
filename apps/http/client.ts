import { createHash, X509Certificate } from "node:crypto";
import { TLSSocket } from "node:tls";
import type { FastifyRequest } from "fastify";
import { CountersignError } from "../../lib/domain/errors.ts";
import type { ErrorCode } from "../../lib/domain/error-codes.ts";

/** Who a client certificate of the site's infrastructure CA names. */
export interface ClientIdentity {
  commonName: string;
  /** Subject OU: `operator`, `station`, ... */
  role: string;
  /** SHA-256 of the certificate's SPKI, lower-case hex. */
  spkiId: string;
  certificate: X509Certificate;
}

declare module "fastify" {
  interface FastifyRequest {
    countersignClient?: ClientIdentity;
    problemCode?: ErrorCode;
  }
}

/** A connection has one client certificate, shown in its handshake; the server never asks for another. */
const clients = new WeakMap<TLSSocket, ClientIdentity>();

/**
 * The verified client of this connection.
 * @throws CountersignError `unauthorized` when there is no certificate, or it isn't the infrastructure CA's
 */
export function clientOf(request: FastifyRequest): ClientIdentity {
  if (request.countersignClient !== undefined) return request.countersignClient;
  const socket = request.raw.socket;
  if (!(socket instanceof TLSSocket)) throw unauthorized("this endpoint needs HTTPS with a client certificate");
  const known = clients.get(socket);
  if (known !== undefined) return (request.countersignClient = known);
  const raw = socket.getPeerCertificate(false)?.raw;
  if (raw === undefined) throw unauthorized("this endpoint needs a client certificate; none was sent");
  // Node checked it against the infrastructure CA alone (signature, validity, clientAuth purpose); its own reason is
  // an OpenSSL code and safe to show.
  if (!socket.authorized) {
    const reason = String(socket.authorizationError ?? "not verified").slice(0, 80);
    throw unauthorized(`the client certificate is not one of this site's infrastructure CA (${reason})`);
  }
  const certificate = new X509Certificate(raw);
  const subject = certificate.subject.split("\n");
  const commonName = attribute(subject, "CN");
  const role = attribute(subject, "OU");
  if (commonName === undefined || role === undefined) {
    throw unauthorized("the client certificate names no CN and OU (its role); have it issued again");
  }
  const spki = certificate.publicKey.export({ type: "spki", format: "der" });
  const spkiId = createHash("sha256").update(spki).digest("hex");
  const client = { commonName, role, spkiId, certificate };
  clients.set(socket, client);
  return (request.countersignClient = client);
}

/**
 * On request, before any of its body is read: lets pass only clients whose role is one of these.
 * @throws CountersignError `unauthorized`
 */
export function requireClient(...roles: readonly string[]): (request: FastifyRequest) => Promise<void> {
  return async (request) => {
    const client = clientOf(request);
    if (roles.length === 0 || roles.includes(client.role)) return;
    throw unauthorized(`${client.commonName} has the role ${client.role}; this endpoint is for ${roles.join(" or ")}`);
  };
}

/** Exactly one value of an attribute in a subject; two of them are no identity. */
function attribute(subject: readonly string[], name: string): string | undefined {
  const values = subject.filter((line) => line.startsWith(`${name}=`));
  return values.length === 1 ? values[0]?.slice(name.length + 1) : undefined;
}

function unauthorized(message: string): CountersignError {
  return new CountersignError("unauthorized", message);
}
