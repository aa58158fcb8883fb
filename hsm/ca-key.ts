import { CountersignError } from "../lib/domain/errors.ts";
import type { SignatureAlgorithm } from "../lib/domain/signing.ts";
import { LintedCrlTbs, assembleCrl } from "../lib/pki/crl.ts";
import { type CsrInfoParams, assembleCsr, csrInfo } from "../lib/pki/csr.ts";
import { LintedTbs, assembleCertificate } from "../lib/pki/lint.ts";
import { keyId } from "../lib/pki/spki.ts";
import type { TokenKey } from "./signer.ts";

/**
 * A CA's key. It has no method that takes bytes: what it signs went through the linter (a `LintedTbs` can't be made in
 * another way), or is built from names and its own public key. One in this process's token, or behind issuing processes
 * that lint again themselves.
 */
export interface CaKey {
  /** DER SubjectPublicKeyInfo */
  readonly spki: Uint8Array;
  readonly algorithm: SignatureAlgorithm;
  readonly label: string;
  /**
   * @returns the certificate's DER
   * @throws CountersignError `profile-violation` when it was linted for another issuer's key, and what `Signer.sign`
   * throws
   */
  signCertificate(linted: LintedTbs): Promise<Uint8Array>;
  /** As `signCertificate`, for a CRL. */
  signCrl(linted: LintedCrlTbs): Promise<Uint8Array>;
  /**
   * This key's own PKCS#10 request (RFC 2986), by which its holder asks the level above for a certificate. The request
   * is built around this key, so nothing else can be signed through it.
   * @returns the request's DER
   */
  signRequest(subject: Omit<CsrInfoParams, "spki">): Promise<Uint8Array>;
}

/** A CA's key in a token of this process. */
export class TokenCaKey implements CaKey {
  readonly spki: Uint8Array;
  readonly algorithm: SignatureAlgorithm;
  readonly label: string;
  readonly #key: TokenKey;
  readonly #keyId: string;

  /** Use `Token.caKey` or `Token.generateCaKey`. */
  constructor(key: TokenKey) {
    this.#key = key;
    this.spki = key.spki;
    this.#keyId = keyId(key.spki);
    this.algorithm = key.algorithm;
    this.label = key.label;
  }

  async signCertificate(linted: LintedTbs): Promise<Uint8Array> {
    const bytes = lintedBytes(LintedTbs, linted);
    assertIssuer(this, this.#keyId, linted);
    return assembleCertificate(linted, await this.#key.signTogether(bytes));
  }

  async signCrl(linted: LintedCrlTbs): Promise<Uint8Array> {
    const bytes = lintedBytes(LintedCrlTbs, linted);
    assertIssuer(this, this.#keyId, linted);
    return assembleCrl(linted, await this.#key.sign(bytes));
  }

  async signRequest(subject: Omit<CsrInfoParams, "spki">): Promise<Uint8Array> {
    const info = csrInfo({ ...subject, spki: this.spki });
    return assembleCsr(info, this.algorithm, await this.#key.sign(info));
  }
}

/** @throws CountersignError `profile-violation` when it was linted for another key than this */
export function assertIssuer(
  key: Pick<CaKey, "label" | "algorithm">,
  id: string,
  linted: LintedTbs | LintedCrlTbs,
): void {
  if (linted.issuerKeyId === id && linted.signatureAlgorithm === key.algorithm) return;
  const what = linted instanceof LintedTbs ? "certificate" : "CRL";
  throw new CountersignError(
    "profile-violation",
    `the ${what} was linted for another issuer than CA key "${key.label}": build and lint it for this one`,
  );
}

/**
 * The bytes as the linter's own class keeps them. Its getter reads a private field, so a look-alike that only claims to
 * be linted (a cast in TypeScript, a property of the same name) is refused here, before the token is asked.
 */
export function lintedBytes<T extends LintedTbs | LintedCrlTbs>(
  type: { readonly prototype: T },
  linted: T,
): Uint8Array {
  const property = Object.getOwnPropertyDescriptor(type.prototype, "bytes");
  try {
    return property!.get!.call(linted) as Uint8Array;
  } catch (cause) {
    throw new CountersignError("profile-violation", "a CA key signs only what the linter passed", { cause });
  }
}
