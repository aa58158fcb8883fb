import { utf8 } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import type { KeyAlgorithm, SignatureAlgorithm, VerifySignature } from "../domain/signing.ts";
import { algorithmFor, algorithmIdentifier, signatureSchemeOf } from "./algorithms.ts";
import { bitString, encodeElement, explicit, integer, oid, sequence, setOf } from "./der-write.ts";
import { inside, readWhole, TAG, type DerReader } from "./der.ts";
import { stringText } from "./directory-string.ts";
import { readExtensions, type Extension } from "./extensions.ts";
import { buildName, nameFrom, type Name } from "./name.ts";
import { OID } from "./oids.ts";
import { pemDecode } from "./pem.ts";
import { readSpki } from "./spki.ts";

export const MAX_CSR_OCTETS = 16 * 1024;
const MAX_ATTRIBUTES = 16;

/**
 * A certification request (RFC 2986). Issuance takes `spki` and `subjectCn` (the device ID it asks for) from it and
 * nothing else; `requestedExtensions` are parsed only so that tools can show what was ignored.
 */
export interface Csr {
  readonly der: Uint8Array;
  /** CertificationRequestInfo: the signed bytes */
  readonly tbs: Uint8Array;
  readonly subject: Name;
  readonly subjectCn: string | undefined;
  readonly spki: Uint8Array;
  readonly keyAlgorithm: KeyAlgorithm;
  readonly challengePassword: string | undefined;
  readonly requestedExtensions: readonly Extension[];
  /** It has an id-aa-attestation attribute. What that says is read by nobody: it answers no nonce of the issuer's. */
  readonly attestation: boolean;
  readonly signatureAlgorithm: SignatureAlgorithm;
  readonly signature: Uint8Array;
}

/**
 * Parses DER, or PEM given as text or octets. Doesn't check the signature: see {@link checkCsr}.
 * @throws CountersignError `der-invalid`, `pem-invalid`, `csr-invalid`, `key-unsupported`, `key-weak`,
 * `input-too-large` above 16 KiB
 */
export function parseCsr(input: Uint8Array | string): Csr {
  const der = csrDer(input);
  if (der.length > MAX_CSR_OCTETS) throw tooLarge(der.length);
  const outer = inside(readWhole(der));
  const info = outer.read(TAG.sequence);
  const identifier = outer.read(TAG.sequence).raw;
  const signature = outer.bitString();
  outer.end();

  const reader = inside(info);
  if (reader.small(1000) !== 0) throw invalid("its version is not v1 (0)");
  const subject = nameFrom(reader.read(TAG.sequence));
  const key = readSpki(reader.read(TAG.sequence).raw);
  const attributes = readAttributes(reader.enterOptional(0xa0));
  reader.end();

  const scheme = signatureSchemeOf(identifier);
  const signatureAlgorithm = scheme && algorithmFor(scheme, key.algorithm);
  if (signatureAlgorithm === undefined) {
    throw new CountersignError(
      "key-unsupported",
      `the CSR's signature algorithm is none we take with its ${key.algorithm} key: use SHA-256, SHA-384 or SHA-512 ` +
        "with ECDSA or RSA (PKCS #1 v1.5), or Ed25519",
    );
  }
  return {
    der,
    tbs: info.raw,
    subject,
    subjectCn: subject.cn,
    spki: key.spki,
    keyAlgorithm: key.algorithm,
    ...attributes,
    signatureAlgorithm,
    signature,
  };
}

/**
 * Proof of possession: the CSR's signature by its own key.
 * @throws CountersignError `csr-signature-invalid`
 */
export async function checkCsr(csr: Csr, verify: VerifySignature): Promise<void> {
  const { spki, signatureAlgorithm: algorithm, tbs: message, signature } = csr;
  if ((await verify({ spki, algorithm, message, signature })) !== true) {
    throw new CountersignError(
      "csr-signature-invalid",
      "the CSR is not signed by the key it names: the sender doesn't prove possession; have the CSR made again",
    );
  }
}

export interface CsrInfoParams {
  readonly cn: string;
  readonly organization?: string | undefined;
  readonly spki: Uint8Array;
  /** RFC 2985 section 5.4.1; at most 255 characters. Carries an invitation's nonce. */
  readonly challengePassword?: string | undefined;
}

/**
 * CertificationRequestInfo for a key in a token: sign these bytes there, then {@link assembleCsr}.
 * @throws CountersignError `input-invalid`, and those of {@link readSpki}
 */
export function csrInfo({ cn, organization, spki, challengePassword }: CsrInfoParams): Uint8Array {
  readSpki(spki);
  const attributes: Uint8Array[] = [];
  if (challengePassword !== undefined) {
    if (!/^[ -~]{1,255}$/.test(challengePassword)) {
      throw new CountersignError("input-invalid", "a challenge password has 1 to 255 printable ASCII characters");
    }
    const value = encodeElement(TAG.utf8String, utf8(challengePassword));
    attributes.push(sequence(oid(OID.challengePassword), setOf(value)));
  }
  return sequence(integer(0), buildName({ organization, commonName: cn }), spki, explicit(0, ...attributes));
}

/** The DER CertificationRequest of `info` and its signature (ECDSA: DER). */
export function assembleCsr(info: Uint8Array, algorithm: SignatureAlgorithm, signature: Uint8Array): Uint8Array {
  return sequence(info, algorithmIdentifier(algorithm), bitString(signature));
}

function csrDer(input: Uint8Array | string): Uint8Array {
  if (typeof input !== "string" && input[0] === TAG.sequence) return input;
  if (input.length > 4 * MAX_CSR_OCTETS) throw tooLarge(input.length);
  const text = typeof input === "string" ? input : new TextDecoder("latin1").decode(input);
  const blocks = pemDecode(text, "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST");
  if (blocks.length !== 1) throw invalid(`it holds ${blocks.length} requests where one belongs`);
  return blocks[0]!;
}

function readAttributes(
  reader: DerReader | undefined,
): Pick<Csr, "challengePassword" | "requestedExtensions" | "attestation"> {
  let challengePassword: string | undefined;
  let requestedExtensions: Extension[] = [];
  const seen = new Set<string>();
  while (reader !== undefined && !reader.atEnd) {
    const attribute = reader.enter();
    const type = attribute.oid();
    if (seen.has(type) || seen.size === MAX_ATTRIBUTES) throw invalid(`attribute ${type} appears twice, or too many`);
    seen.add(type);
    const values = attribute.enter(TAG.set);
    attribute.end();
    if (type === OID.challengePassword) {
      challengePassword = stringText(values.read());
      if (challengePassword === undefined) throw invalid("its challengePassword is not a string");
      values.end();
    } else if (type === OID.extensionRequest) {
      requestedExtensions = readExtensions(values);
      values.end();
    } else {
      while (!values.atEnd) values.read();
    }
  }
  return { challengePassword, requestedExtensions, attestation: seen.has(OID.attestation) };
}

function invalid(message: string): CountersignError {
  return new CountersignError("csr-invalid", `the certification request is refused: ${message}`);
}

function tooLarge(length: number): CountersignError {
  return new CountersignError("input-too-large", `a CSR of ${length} octets is above the limit of ${MAX_CSR_OCTETS}`);
}
