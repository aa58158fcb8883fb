import { type KeyObject, randomBytes, sign } from "node:crypto";
import { createSecureContext, type SecureContext } from "node:tls";
import { type Certificate, parseCertificate } from "../../lib/pki/certificate.ts";
import { issuerFromCertificate, type IssuerInfo, selfIssuer, validityFor } from "../../lib/pki/issuer.ts";
import { assembleCertificate, lintTbs } from "../../lib/pki/lint.ts";
import type { NameParts } from "../../lib/pki/name.ts";
import { pemEncode } from "../../lib/pki/pem.ts";
import { profileNamed, type ProfileName } from "../../lib/pki/profiles.ts";
import { newSerial } from "../../lib/pki/serial.ts";
import { buildTbs } from "../../lib/pki/tbs.ts";
import { newSoftwareKey } from "./software-key.ts";

interface SoftwareCa {
  readonly key: KeyObject;
  readonly issuer: IssuerInfo;
  readonly pem: string;
}

/**
 * For trying a hub out, and for nothing else: a root, an intermediate and devices whose keys are made in software and stay
 * in this process's memory. What a device in the field has is a key in a token of its own.
 */
export class SoftwareFleet {
  readonly #now = new Date();
  readonly #root: SoftwareCa;
  readonly #intermediate: SoftwareCa;

  constructor(name: string) {
    const { key, spki } = newSoftwareKey();
    const subject = { organization: "Software keys, for tests only", commonName: name };
    const validity = validityFor(profileNamed("root"), this.#now, undefined, DAYS);
    const self = selfIssuer({ name: subject, spki, ...validity });
    const root = certify("root", this.#now, { key, issuer: self }, subject, spki);
    this.#root = ca(key, root);
    const below = newSoftwareKey();
    const named = { ...subject, commonName: `${name} line` };
    const intermediate = certify("intermediate-embedded", this.#now, this.#root, named, below.spki, 0);
    this.#intermediate = ca(below.key, intermediate);
  }

  get rootPem(): string {
    return this.#root.pem;
  }

  /** What proves to a hub that the root's key is here; PEM. */
  verification(code: string): string {
    const subject = { commonName: code };
    return pemEncode("CERTIFICATE", certify("hub-verification", this.#now, this.#root, subject, newSoftwareKey().spki));
  }

  /** A new key and its certificate. @param hubCa PEM that the hub's certificate is checked against */
  device(deviceId: string, hubCa: string): SecureContext {
    const { key, spki } = newSoftwareKey();
    const leaf = certify("ldevid", this.#now, this.#intermediate, { commonName: deviceId }, spki);
    return createSecureContext({
      ca: hubCa,
      cert: pemEncode("CERTIFICATE", leaf) + this.#intermediate.pem,
      key: key.export({ type: "pkcs8", format: "pem" }),
      minVersion: "TLSv1.2",
    });
  }
}

/** They are of no use after the run. */
const DAYS = 1;

function ca(key: KeyObject, der: Uint8Array): SoftwareCa {
  const certificate: Certificate = parseCertificate(der);
  return { key, issuer: issuerFromCertificate(certificate), pem: pemEncode("CERTIFICATE", der) };
}

function certify(
  profileName: ProfileName,
  now: Date,
  { key, issuer }: Pick<SoftwareCa, "key" | "issuer">,
  subject: NameParts,
  spki: Uint8Array,
  pathLen?: number,
): Uint8Array {
  const profile = profileNamed(profileName);
  const within = profile.selfSigned ? undefined : issuer;
  const tbs = buildTbs(profile, {
    serial: newSerial(randomBytes),
    ...validityFor(profile, now, within, DAYS),
    issuer,
    subject,
    spki,
    ...(pathLen === undefined ? {} : { pathLen }),
  });
  const linted = lintTbs(tbs, profile, issuer);
  return assembleCertificate(linted, sign("sha256", linted.bytes, key));
}
