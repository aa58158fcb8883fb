import type { DerReader } from "./der.ts";
import { MAX_NAMES, readGeneralNames } from "./general-name.ts";
import { readRdn } from "./name.ts";

/** The last of ReasonFlags, aACompromise. */
const MAX_REASON = 8;

/**
 * CRLDistributionPoints (RFC 5280 section 4.2.1.13), also freshestCRL's.
 * @returns URIs of the points' full names
 * @throws CountersignError `der-invalid`, also for a point that names neither itself nor its CRL's issuer
 */
export function readDistributionPoints(outer: DerReader): string[] {
  const reader = outer.enter();
  const urls: string[] = [];
  if (reader.atEnd) throw reader.fail("empty list of CRL distribution points");
  for (let points = 0; !reader.atEnd; points++) {
    if (points === MAX_NAMES) throw reader.fail("too many CRL distribution points");
    const point = reader.enter();
    const named = point.enterOptional(0xa0);
    if (named !== undefined) urls.push(...readPointName(named));
    if (point.peek() === 0x81 && point.namedBits(0x81).some((bit) => bit > MAX_REASON)) {
      throw point.fail("unknown reason of a CRL distribution point");
    }
    const crlIssuer = point.enterOptional(0xa2);
    if (crlIssuer !== undefined) readGeneralNames(crlIssuer);
    point.end();
    if (named === undefined && crlIssuer === undefined) throw point.fail("a CRL distribution point without a name");
  }
  return urls;
}

/** DistributionPointName ::= CHOICE { fullName [0] GeneralNames, nameRelativeToCRLIssuer [1] RelativeDistinguishedName } */
function readPointName(reader: DerReader): string[] {
  const relative = reader.enterOptional(0xa1);
  if (relative !== undefined) readRdn(relative);
  const names = relative === undefined ? readGeneralNames(reader.enter(0xa0)) : [];
  reader.end();
  return names.flatMap((name) => (name.kind === "uri" ? [name.value] : []));
}
