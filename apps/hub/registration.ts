import { randomBytes, timingSafeEqual } from "node:crypto";
import { utf8 } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { parseCertificate, type Certificate } from "../../lib/pki/certificate.ts";
import { validatePath } from "../../lib/pki/path.ts";
import { pemDecode } from "../../lib/pki/pem.ts";
import { webCryptoVerify } from "../../lib/pki/verify.ts";
import type { Db } from "../../store/db.ts";
import { countCas, findCa, offerCa, verifyCa, type HubCa } from "../../store/hub-cas.ts";
import { sha256 } from "./admission.ts";

const MAX_CAS = 100;

/**
 * Step one of registering a CA: a code that only the holder of the CA's key can have put into a certificate. The CA's
 * own certificate may come now or with the verification, since a root's ceremony signs both at once.
 * @throws CountersignError `already-exists`, `state-conflict`, `input-invalid`, `certificate-invalid`
 */
export async function offer(
  db: Db,
  request: { name: string; certificate?: string | undefined; succeeds?: string | undefined },
  code: { hours: number; now: Date },
): Promise<HubCa> {
  const ca = request.certificate === undefined ? undefined : caCertificate(request.certificate, code.now);
  if ((await findCa(db, request.name)) === undefined && (await countCas(db)) >= MAX_CAS) {
    throw new CountersignError("hub-refused", `this hub registers at most ${MAX_CAS} CAs`);
  }
  return offerCa(db, {
    name: request.name,
    code: randomBytes(24).toString("hex"),
    codeExpiresAt: new Date(code.now.getTime() + code.hours * 3_600_000),
    succeeds: request.succeeds,
    ...(ca === undefined ? {} : { certificate: ca.der, sha256: sha256(ca.der) }),
  });
}

/**
 * Step two: proof of possession. The verification certificate is signed by the CA's key and its CN is the code.
 * @throws CountersignError `not-found`, `already-exists`, `hub-code-expired`, `hub-code-wrong`, `hub-ca-not-verified`
 *   (not signed by this CA), `certificate-invalid`, `input-invalid`
 */
export async function verify(
  db: Db,
  proof: { name: string; ca: string; verification: string },
  now: Date,
): Promise<HubCa> {
  const offered = await findCa(db, proof.name);
  if (offered === undefined) {
    throw new CountersignError("not-found", `the hub has no CA named ${proof.name}; ask for a verification code first`);
  }
  if (offered.state === "verified") {
    throw new CountersignError("already-exists", `the CA ${proof.name} is verified already`);
  }
  const ca = caCertificate(proof.ca, now);
  const verification = oneCertificate(proof.verification, "the verification certificate");
  if (offered.sha256 !== null && offered.sha256 !== sha256(ca.der)) {
    throw new CountersignError("state-conflict", `another certificate was uploaded for the CA ${proof.name}`);
  }
  if (offered.codeExpiresAt <= now) {
    const since = offered.codeExpiresAt.toISOString();
    throw new CountersignError("hub-code-expired", `the code for ${proof.name} expired at ${since}; ask for a new one`);
  }
  if (!sameText(verification.subject.cn ?? "", offered.code)) {
    throw new CountersignError(
      "hub-code-wrong",
      `the verification certificate's CN is not the code given for ${proof.name}`,
    );
  }
  if (verification.basicConstraints?.ca === true) {
    throw new CountersignError("certificate-invalid", "the verification certificate must not be a CA's");
  }
  const result = await validatePath({
    chain: [verification],
    roots: [ca],
    at: now,
    crls: [],
    partialChain: true,
    verify: webCryptoVerify,
  });
  if (!result.ok) {
    const message = `the verification certificate is not one of this CA: ${result.reason} (${result.message})`;
    throw new CountersignError("hub-ca-not-verified", message);
  }
  return verifyCa(db, { name: proof.name, code: offered.code, certificate: ca.der, sha256: sha256(ca.der) });
}

/** A certificate that may sign certificates, valid now. */
export function caCertificate(pem: string, now: Date): Certificate {
  const certificate = oneCertificate(pem, "the CA certificate");
  if (certificate.basicConstraints?.ca !== true) {
    throw new CountersignError("certificate-invalid", "the CA certificate is not a CA's (basicConstraints)");
  }
  if (now < certificate.notBefore || now > certificate.notAfter) {
    throw new CountersignError("certificate-invalid", "the CA certificate is not valid at this time");
  }
  return certificate;
}

function oneCertificate(pem: string, what: string): Certificate {
  // Nobody's private key is wanted here; say so, so that it is treated as exposed.
  if (/PRIVATE KEY/.test(pem)) {
    throw new CountersignError(
      "input-invalid",
      `${what} came with a private key: the hub takes none; replace that key`,
    );
  }
  const blocks = pemDecode(pem, "CERTIFICATE");
  const der = blocks[0];
  if (der === undefined || blocks.length !== 1) {
    throw new CountersignError("input-invalid", `${what} must be exactly one PEM certificate`);
  }
  return parseCertificate(der);
}

function sameText(a: string, b: string): boolean {
  const left = utf8(a);
  const right = utf8(b);
  return left.length === right.length && timingSafeEqual(left, right);
}
