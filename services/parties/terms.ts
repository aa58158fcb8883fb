import { CountersignError } from "../../lib/domain/errors.ts";
import { profileDigest } from "../../lib/pki/profiles.ts";
import type { Grant, GrantTerms } from "../../lib/records/grant.ts";
import type { ProfileRef } from "../../lib/records/primitives.ts";

/** What a party may grant on: never more than it holds itself. */

export function profileRefs(names: readonly string[]): ProfileRef[] {
  return names.map((name) => ({ name, sha256: profileDigest(name) }));
}

/**
 * @param own the grant under which this site delegates; undefined for the root's own party, which holds everything
 * @throws CountersignError `grant-exceeded`, `delegation-too-deep`, `profile-not-granted`, `profile-invalid`,
 *   `grant-expired`, `grant-not-yet-valid`
 */
export function checkTerms(terms: GrantTerms, own: Grant | undefined, now: Date): void {
  const wanted = profileRefs(terms.profiles);
  if (terms.notAfter <= now.toISOString()) {
    throw new CountersignError("grant-exceeded", `the window asked for ended at ${terms.notAfter}`);
  }
  if (!own) return;
  checkWindow(own, now);
  if (own.depth < 1 || terms.depth >= own.depth) {
    throw new CountersignError(
      "delegation-too-deep",
      `the grant ${own.id} of depth ${own.depth} doesn't reach so deep`,
    );
  }
  if (terms.pathLen >= own.pathLen) {
    throw new CountersignError(
      "delegation-too-deep",
      `a path length of ${terms.pathLen} isn't below ${own.pathLen}, our own`,
    );
  }
  if (terms.notBefore < own.notBefore || terms.notAfter > own.notAfter) {
    throw new CountersignError(
      "grant-exceeded",
      `the window asked for exceeds ${own.notBefore} to ${own.notAfter}, our own`,
    );
  }
  if (terms.mayBuild && !own.mayBuild) {
    throw new CountersignError(
      "grant-exceeded",
      `our own grant ${own.id} doesn't allow building: nobody gets that of us`,
    );
  }
  const outside = terms.idPrefixes.find((prefix) => !own.idPrefixes.some((mine) => prefix.startsWith(mine)));
  if (outside !== undefined) {
    throw new CountersignError(
      "grant-exceeded",
      `the prefix ${outside} lies outside our own (${own.idPrefixes.join(", ")})`,
    );
  }
  const foreign = wanted.find((ref) => !own.profiles.some((mine) => mine.sha256 === ref.sha256));
  if (foreign) {
    throw new CountersignError("profile-not-granted", `the profile ${foreign.name} isn't in our own grant ${own.id}`);
  }
}

/** @throws CountersignError `grant-expired`, `grant-not-yet-valid` */
export function checkWindow(grant: Grant, now: Date): void {
  const at = now.toISOString();
  if (at < grant.notBefore)
    throw new CountersignError("grant-not-yet-valid", `the grant ${grant.id} begins at ${grant.notBefore}`);
  if (at > grant.notAfter)
    throw new CountersignError("grant-expired", `the grant ${grant.id} ended at ${grant.notAfter}`);
}
