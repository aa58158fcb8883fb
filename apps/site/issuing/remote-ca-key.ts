import { type CaKey, assertIssuer, lintedBytes } from "../../../hsm/index.ts";
import { equalBytes } from "../../../lib/domain/bytes.ts";
import { CountersignError } from "../../../lib/domain/errors.ts";
import type { SignatureAlgorithm } from "../../../lib/domain/signing.ts";
import { LintedCrlTbs, assembleCrl } from "../../../lib/pki/crl.ts";
import type { CsrInfoParams } from "../../../lib/pki/csr.ts";
import { DerReader, TAG } from "../../../lib/pki/der.ts";
import { LintedTbs, assembleCertificate } from "../../../lib/pki/lint.ts";
import { keyId } from "../../../lib/pki/spki.ts";
import type { KeyFacts } from "./protocol.ts";
import type { Order } from "./issuing-process.ts";

/** An order before it is given its number. */
export type Wish = Order extends infer O ? (O extends { id: number } ? Omit<O, "id"> : never) : never;

/** A CA key behind issuing processes: like every CA key it takes only what the linter passed. */
export class RemoteCaKey implements CaKey {
  readonly spki: Uint8Array;
  readonly algorithm: SignatureAlgorithm;
  readonly label: string;
  readonly #keyId: string;
  readonly #order: (wish: Wish) => Promise<Uint8Array>;

  constructor(label: string, facts: KeyFacts, order: (wish: Wish) => Promise<Uint8Array>) {
    this.label = label;
    this.spki = facts.spki;
    this.algorithm = facts.algorithm;
    this.#keyId = keyId(facts.spki);
    this.#order = order;
  }

  async signCertificate(linted: LintedTbs): Promise<Uint8Array> {
    const tbs = lintedBytes(LintedTbs, linted);
    assertIssuer(this, this.#keyId, linted);
    const { label } = this;
    const { profile, issuer } = linted;
    const der = await this.#order({ kind: "certificate", label, tbs, profile, issuer });
    return assembleCertificate(linted, signatureOver(tbs, der));
  }

  async signCrl(linted: LintedCrlTbs): Promise<Uint8Array> {
    const tbs = lintedBytes(LintedCrlTbs, linted);
    assertIssuer(this, this.#keyId, linted);
    const der = await this.#order({ kind: "crl", label: this.label, tbs, issuer: linted.issuer });
    return assembleCrl(linted, signatureOver(tbs, der));
  }

  signRequest(subject: Omit<CsrInfoParams, "spki">): Promise<Uint8Array> {
    return this.#order({ kind: "request", label: this.label, subject });
  }
}

/** The signature of a signed structure that must hold exactly our bytes: an answer to another order is no answer. */
function signatureOver(tbs: Uint8Array, der: Uint8Array): Uint8Array {
  const outer = new DerReader(new DerReader(der).read(TAG.sequence).content);
  const signed = outer.read(TAG.sequence).raw;
  outer.read(TAG.sequence);
  const signature = outer.bitString();
  outer.end();
  if (equalBytes(signed, tbs)) return signature;
  throw new CountersignError(
    "internal",
    "an issuing process signed other bytes than it was given: nothing was released",
  );
}
