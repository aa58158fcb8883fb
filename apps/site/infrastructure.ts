import { generateKeyPairSync, randomBytes } from "node:crypto";
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { isIP } from "node:net";
import { dirname, join } from "node:path";
import type { CaKey } from "../../hsm/index.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { parseCertificate, parseCertificatesPem, type Certificate } from "../../lib/pki/certificate.ts";
import type { SubjectAltName } from "../../lib/pki/general-name.ts";
import { issuerFromCertificate, selfIssuer, validityFor } from "../../lib/pki/issuer.ts";
import { lintTbs } from "../../lib/pki/lint.ts";
import { pemEncode } from "../../lib/pki/pem.ts";
import { PROFILES } from "../../lib/pki/profiles.ts";
import { newSerial } from "../../lib/pki/serial.ts";
import { buildTbs } from "../../lib/pki/tbs.ts";

/** A site's infrastructure CA (its key is in the token, label `infra`) and what it signs: servers, operators, stations. */

const RENEW_BEFORE_MS = 30 * 86_400_000;

export type ClientRoleName = "operator" | "station" | "technician" | "monitor";

/** The self-signed certificate in `file`, made when it isn't there. */
export async function ensureInfrastructureCa(
  key: CaKey,
  file: string,
  subject: { organization: string; commonName: string },
): Promise<Certificate> {
  if (existsSync(file)) {
    const [held] = parseCertificatesPem(readFileSync(file, "utf8"));
    if (held && Buffer.from(held.spki).equals(key.spki)) return held;
    throw new CountersignError("state-conflict", `${file} isn't the certificate of this token's key "infra"`);
  }
  const profile = PROFILES["infra-ca"];
  const { notBefore, notAfter } = validityFor(profile, new Date(), undefined);
  const issuer = selfIssuer({ name: subject, spki: key.spki, notBefore, notAfter });
  const tbs = buildTbs(profile, {
    issuer,
    serial: newSerial(randomBytes),
    notBefore,
    notAfter,
    subject,
    spki: key.spki,
    pathLen: 0,
  });
  const der = await key.signCertificate(lintTbs(tbs, profile, issuer));
  replaceFile(file, pemEncode("CERTIFICATE", der), 0o644);
  return parseCertificate(der);
}

/** A TLS server's key and certificate for the names in `urls`. */
export function ensureServer(
  ca: { key: CaKey; certificate: Certificate },
  files: { keyFile: string; certFile: string },
  subject: { organization: string; commonName: string },
  hosts: readonly string[],
): Promise<void> {
  const san = [...new Set([...hosts, "127.0.0.1", "localhost"])].map(altName);
  return ensureLeaf(ca, files, PROFILES.server, subject, san);
}

/** A client's key and certificate; its role is the OU. */
export function ensureClient(
  ca: { key: CaKey; certificate: Certificate },
  files: { keyFile: string; certFile: string },
  subject: { organization: string; commonName: string; organizationalUnit: ClientRoleName },
): Promise<void> {
  return ensureLeaf(ca, files, PROFILES[subject.organizationalUnit], subject, []);
}

async function ensureLeaf(
  ca: { key: CaKey; certificate: Certificate },
  files: { keyFile: string; certFile: string },
  profile: (typeof PROFILES)["server" | ClientRoleName],
  subject: { organization: string; commonName: string; organizationalUnit?: string },
  san: readonly SubjectAltName[],
): Promise<void> {
  if (existsSync(files.keyFile) && existsSync(files.certFile)) {
    const [held] = parseCertificatesPem(readFileSync(files.certFile, "utf8"));
    if (held && held.notAfter.getTime() - Date.now() > RENEW_BEFORE_MS) return;
  }
  const pair = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const spki = new Uint8Array(pair.publicKey.export({ type: "spki", format: "der" }));
  const issuer = issuerFromCertificate(ca.certificate);
  const tbs = buildTbs(profile, {
    issuer,
    serial: newSerial(randomBytes),
    ...validityFor(profile, new Date(), issuer),
    subject,
    spki,
    ...(san.length === 0 ? {} : { san }),
  });
  const der = await ca.key.signCertificate(lintTbs(tbs, profile, issuer));
  // The certificate last: with it there, the pair is complete.
  replaceFile(files.keyFile, String(pair.privateKey.export({ type: "pkcs8", format: "pem" })), 0o600);
  replaceFile(files.certFile, pemEncode("CERTIFICATE", der), 0o644);
}

function altName(host: string): SubjectAltName {
  if (isIP(host) === 4) return { kind: "ip", value: Uint8Array.from(host.split("."), Number) };
  if (isIP(host) !== 0) throw new CountersignError("input-invalid", `use a name or an IPv4 address instead of ${host}`);
  return { kind: "dns", value: host };
}

function replaceFile(file: string, text: string, mode: number): void {
  const next = join(dirname(file), `.${process.pid}.next`);
  writeFileSync(next, text, { mode, flush: true });
  renameSync(next, file);
}
