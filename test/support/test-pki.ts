import "reflect-metadata";
import { randomBytes, webcrypto } from "node:crypto";
import * as x509 from "@peculiar/x509";

// Throwaway CAs for tests, made by another library than the product's own, so that neither vouches for itself.
x509.cryptoProvider.set(webcrypto as Crypto);

const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };

export interface TestCertificate {
  pem: string;
  der: Uint8Array;
  subject: string;
  keys: CryptoKeyPair;
  /** PEM of the private key, PKCS #8. */
  keyPem: string;
}

export interface IssueOptions {
  /** Signed by itself when left out. */
  issuer?: TestCertificate;
  ca?: boolean;
  /** A CA's key that may sign other things as well. */
  digitalSignature?: boolean;
  /** Certify this key instead of a new one. */
  keys?: CryptoKeyPair;
  pathLength?: number;
  /** Public key to certify: a CSR's, where the private key is elsewhere. */
  csr?: string;
  notBefore?: Date;
  notAfter?: Date;
  /** Extended key usage OIDs. */
  eku?: string[];
  san?: { type: "dns" | "ip" | "dn"; value: string }[];
  /** The alternative names are critical, as they are where the subject is empty. */
  criticalSan?: boolean;
  /** A key that agrees on others and signs nothing. */
  keyAgreement?: boolean;
}

export const CLIENT_AUTH = "1.3.6.1.5.5.7.3.2";
export const SERVER_AUTH = "1.3.6.1.5.5.7.3.1";

const DAY = 86_400_000;

/** @param subject RFC 4514, `CN=...` */
export async function testCertificate(subject: string, options: IssueOptions = {}): Promise<TestCertificate> {
  const fresh = async () => (await webcrypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"])) as CryptoKeyPair;
  const keys = options.keys ?? (await fresh());
  const publicKey =
    options.csr === undefined
      ? keys.publicKey
      : await new x509.Pkcs10CertificateRequest(options.csr).publicKey.export();
  const { KeyUsageFlags } = x509;
  const caUsage =
    KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign | (options.digitalSignature ? KeyUsageFlags.digitalSignature : 0);
  const leafUsage = options.keyAgreement === true ? KeyUsageFlags.keyAgreement : KeyUsageFlags.digitalSignature;
  const extensions: x509.Extension[] = [
    new x509.BasicConstraintsExtension(options.ca === true, options.pathLength, true),
    new x509.KeyUsagesExtension(options.ca === true ? caUsage : leafUsage, true),
    await x509.SubjectKeyIdentifierExtension.create(publicKey),
  ];
  if (options.issuer !== undefined) {
    extensions.push(await x509.AuthorityKeyIdentifierExtension.create(options.issuer.keys.publicKey));
  }
  if (options.eku !== undefined) extensions.push(new x509.ExtendedKeyUsageExtension(options.eku));
  if (options.san !== undefined)
    extensions.push(new x509.SubjectAlternativeNameExtension(options.san, options.criticalSan));
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: `01${randomBytes(12).toString("hex")}`,
    subject,
    issuer: options.issuer?.subject ?? subject,
    notBefore: options.notBefore ?? new Date(Date.now() - DAY),
    notAfter: options.notAfter ?? new Date(Date.now() + 30 * DAY),
    signingAlgorithm: ALGORITHM,
    publicKey,
    signingKey: options.issuer?.keys.privateKey ?? keys.privateKey,
    extensions,
  });
  const pkcs8 = Buffer.from(await webcrypto.subtle.exportKey("pkcs8", keys.privateKey)).toString("base64");
  const keyPem = `-----BEGIN PRIVATE KEY-----\n${pkcs8.replace(/(.{64})(?=.)/g, "$1\n")}\n-----END PRIVATE KEY-----\n`;
  const der = new Uint8Array(certificate.rawData);
  return { pem: `${certificate.toString("pem")}\n`, der, subject, keys, keyPem };
}
