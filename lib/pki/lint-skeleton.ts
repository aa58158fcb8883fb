import { equalBytes } from "../domain/bytes.ts";
import { isCountersignError } from "../domain/errors.ts";
import { readSerial, type TbsCertificate } from "./certificate.ts";
import { inside, readWhole, TAG } from "./der.ts";
import type { IssuerInfo } from "./issuer.ts";
import { ownViolations, type OwnParts } from "./lint-rules.ts";
import { nameFrom } from "./name.ts";
import { OID } from "./oids.ts";
import type { Profile } from "./profile-schema.ts";
import { readTime } from "./time.ts";

/**
 * The short way through the linter. Of a certificate that passed every rule it keeps the octets that the next one of
 * the same issuer and profile may share: version, algorithm, issuer, and all extensions but the subject key identifier.
 * A TBS with these very octets needs judging only in what is its own. Nothing here comes from the builder, and whatever
 * differs anywhere takes the long way.
 */
interface Skeleton {
  readonly version: Uint8Array;
  readonly algorithm: Uint8Array;
  readonly issuer: Uint8Array;
  /** The whole [3] element */
  readonly extensions: Uint8Array;
  /** Where the key identifier's octets are in it */
  readonly ski: { readonly start: number; readonly end: number };
  /** What of the issuer the rules about extensions depend on */
  readonly issuerSki: Uint8Array;
  readonly pathLen: number | undefined;
}

/** Enough for a batch over several issuers' CRL URLs; one that isn't kept only costs time. */
const KEPT = 4;
const skeletons = new WeakMap<IssuerInfo, WeakMap<Profile, Skeleton[]>>();

/** Whether the TBS certainly keeps to its profile. False says nothing: judge it by every rule. */
export function passesShortWay(tbs: Uint8Array, profile: Profile, issuer: IssuerInfo): boolean {
  const known = skeletons.get(issuer)?.get(profile);
  if (known === undefined) return false;
  try {
    const { own, ...shared } = cut(tbs);
    const skeleton = known.find((one) => matches(one, shared, issuer));
    if (skeleton === undefined) return false;
    const ski = shared.extensions.subarray(skeleton.ski.start, skeleton.ski.end);
    return ownViolations({ tbs: { ...own, ski }, profile, issuer }).length === 0;
  } catch (error) {
    if (isCountersignError(error)) return false;
    throw error;
  }
}

/** @param parsed what `tbs` holds; it broke no rule */
export function learn(tbs: Uint8Array, parsed: TbsCertificate, profile: Profile, issuer: IssuerInfo): void {
  const { own: _, extensionsOffset, ...shared } = cut(tbs);
  const identifier = parsed.extensions.find((extension) => extension.oid === OID.subjectKeyIdentifier);
  if (identifier === undefined || parsed.ski === undefined) return;
  const end = identifier.offset + identifier.value.length - extensionsOffset;
  const skeleton = {
    ...shared,
    ski: { start: end - parsed.ski.length, end },
    issuerSki: issuer.ski.slice(),
    pathLen: issuer.pathLen,
  };
  let byProfile = skeletons.get(issuer);
  if (byProfile === undefined) skeletons.set(issuer, (byProfile = new WeakMap()));
  byProfile.set(profile, [skeleton, ...(byProfile.get(profile) ?? [])].slice(0, KEPT));
}

type Cut = Pick<Skeleton, "version" | "algorithm" | "issuer" | "extensions"> & {
  readonly own: Omit<OwnParts, "ski">;
  readonly extensionsOffset: number;
};

/** The TBS in its parts, each read as parseTbsCertificate reads it. */
function cut(tbs: Uint8Array): Cut {
  const reader = inside(readWhole(tbs));
  const version = reader.read(0xa0).raw;
  const serial = readSerial(reader);
  const algorithm = reader.read(TAG.sequence).raw;
  const issuer = reader.read(TAG.sequence).raw;
  const validity = reader.enter();
  const notBefore = readTime(validity);
  const notAfter = readTime(validity);
  validity.end();
  const subject = nameFrom(reader.read(TAG.sequence));
  const spki = reader.read(TAG.sequence).raw;
  const extensions = reader.read(0xa3);
  reader.end();
  const own = { serial, notBefore, notAfter, subject, spki };
  return { own, version, algorithm, issuer, extensions: extensions.raw, extensionsOffset: extensions.offset };
}

function matches(skeleton: Skeleton, found: Omit<Cut, "own">, issuer: IssuerInfo): boolean {
  const { start, end } = skeleton.ski;
  return (
    equalBytes(skeleton.version, found.version) &&
    equalBytes(skeleton.algorithm, found.algorithm) &&
    equalBytes(skeleton.issuer, found.issuer) &&
    // The issuer is the object that the skeleton was learnt under, unless someone wrote into it since
    equalBytes(skeleton.issuer, issuer.name) &&
    equalBytes(skeleton.issuerSki, issuer.ski) &&
    skeleton.pathLen === issuer.pathLen &&
    skeleton.extensions.length === found.extensions.length &&
    equalBytes(skeleton.extensions.subarray(0, start), found.extensions.subarray(0, start)) &&
    equalBytes(skeleton.extensions.subarray(end), found.extensions.subarray(end))
  );
}
