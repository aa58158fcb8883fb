import { equalBytes } from "../domain/bytes.ts";
import { CountersignError, isCountersignError } from "../domain/errors.ts";
import type { SignatureAlgorithm } from "../domain/signing.ts";
import { algorithmIdentifier } from "./algorithms.ts";
import { parseTbsCertificate, type TbsCertificate } from "./certificate.ts";
import { bitString, sequence } from "./der-write.ts";
import type { IssuerInfo } from "./issuer.ts";
import { violations } from "./lint-rules.ts";
import { learn, passesShortWay } from "./lint-skeleton.ts";
import type { Profile } from "./profile-schema.ts";
import { keyId } from "./spki.ts";

let construct: (bytes: Uint8Array, profile: string, issuer: IssuerInfo) => LintedTbs;
let spend: (linted: LintedTbs) => { bytes: Uint8Array; algorithm: SignatureAlgorithm };

/**
 * A TBSCertificate that passed the linter, and the only thing a CA key signs. No one else can make one: the constructor
 * is out of reach, the bytes are private and copied on the way out, so what is signed is what was linted. Single use:
 * one of these becomes at most one certificate.
 */
export class LintedTbs {
  readonly #bytes: Uint8Array;
  #spent = false;
  readonly profile: string;
  readonly signatureAlgorithm: SignatureAlgorithm;
  /** keyId of the issuer the lint was made for: whoever signs must hold that key */
  readonly issuerKeyId: string;
  /** the issuer the lint was made for, for whoever lints again in another process */
  readonly issuer: IssuerInfo;

  static {
    construct = (bytes, profile, issuer) => new LintedTbs(CONSTRUCT, bytes, profile, issuer);
    spend = (linted) => {
      // `in` throws on primitives and is false for look-alikes; both mean: not from the linter
      if (typeof linted !== "object" || linted === null || !(#bytes in linted)) {
        throw new CountersignError("profile-violation", "only a certificate that passed the linter can be assembled");
      }
      if (linted.#spent) {
        throw new CountersignError(
          "profile-violation",
          "this linted certificate was used already; lint the intent again",
        );
      }
      linted.#spent = true;
      return { bytes: linted.#bytes, algorithm: linted.signatureAlgorithm };
    };
  }

  private constructor(token: symbol, bytes: Uint8Array, profile: string, issuer: IssuerInfo) {
    if (token !== CONSTRUCT) throw new CountersignError("profile-violation", "only lintTbs makes a LintedTbs");
    this.#bytes = bytes; // lintTbs's own copy
    this.profile = profile;
    this.signatureAlgorithm = issuer.algorithm;
    this.issuerKeyId = issuerKeyId(issuer);
    this.issuer = issuer;
    Object.freeze(this);
  }

  /** A copy of the TBSCertificate: the message to sign. */
  get bytes(): Uint8Array {
    return this.#bytes.slice();
  }
}

const CONSTRUCT = Symbol("LintedTbs");

/**
 * Reads the bytes that are about to be signed and holds them against the profile and the issuer. Everything is derived
 * from the bytes again, by code that shares nothing with the builder but OIDs and the key identifier.
 * @throws CountersignError `profile-violation` naming every broken rule (`details.rules`); `der-invalid`,
 * `certificate-invalid`, `key-unsupported`, `key-weak`
 */
export function lintTbs(tbs: Uint8Array, profile: Profile, issuer: IssuerInfo): LintedTbs {
  const bytes = tbs.slice(); // the caller's buffer may change while we look
  if (passesShortWay(bytes, profile, issuer)) return construct(bytes, profile.name, issuer);
  const parsed = read(bytes);
  const broken = violations({ tbs: parsed, profile, issuer });
  if (broken.length > 0) {
    throw new CountersignError(
      "profile-violation",
      `not a ${profile.name} certificate: ${broken.map(({ message }) => message).join("; ")}; nothing was signed`,
      { details: { profile: profile.name, rules: broken.map(({ rule }) => rule).join(",") } },
    );
  }
  learn(bytes, parsed, profile, issuer);
  return construct(bytes, profile.name, issuer);
}

/**
 * DER certificate of a linted TBS and its signature (ECDSA: DER). Uses the LintedTbs up.
 * @throws CountersignError `profile-violation` when it was used before or isn't the linter's
 */
export function assembleCertificate(linted: LintedTbs, signature: Uint8Array): Uint8Array {
  const { bytes, algorithm } = spend(linted);
  return sequence(bytes, algorithmIdentifier(algorithm), bitString(signature));
}

const keyIds = new WeakMap<IssuerInfo, { spki: Uint8Array; id: string }>();

/** Once for each issuer, and again if its key's octets aren't those it was made from. */
function issuerKeyId(issuer: IssuerInfo): string {
  const known = keyIds.get(issuer);
  if (known !== undefined && equalBytes(known.spki, issuer.spki)) return known.id;
  const spki = issuer.spki.slice();
  const id = keyId(spki);
  keyIds.set(issuer, { spki, id });
  return id;
}

function read(bytes: Uint8Array): TbsCertificate {
  try {
    return parseTbsCertificate(bytes);
  } catch (cause) {
    if (isCountersignError(cause)) throw cause;
    throw new CountersignError("certificate-invalid", "the TBSCertificate can't be read", { cause });
  }
}
