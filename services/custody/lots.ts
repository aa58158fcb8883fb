import { fromHex } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { canonicalJson } from "../../lib/domain/json.ts";
import { parseCertificate } from "../../lib/pki/certificate.ts";
import { issuerFromCertificate, validityFor } from "../../lib/pki/issuer.ts";
import { profileNamed } from "../../lib/pki/profiles.ts";
import type { PrevRef } from "../../lib/records/primitives.ts";
import { findCaCertificate } from "../../store/authority.ts";
import { findCurrentGrant, type CurrentGrant } from "../../store/grants.ts";
import { storeBlob } from "../../store/ledger.ts";
import { findLot, insertLot, type Lot } from "../../store/lots.ts";
import { getPeer } from "../../store/parties.ts";
import { lotWorkflowId } from "../issuing/context.ts";
import { sha256Hex } from "../ledger/index.ts";
import { nowOf, type CustodyContext } from "./context.ts";
import { demandOf, settingsBlobs, tidySettings } from "./settings.ts";
import { layoutBytes, pinTerms, type LotRequest, type LotTerms } from "./terms.ts";

/**
 * Opens a lot that this site builds. The same request again gives the lot that is open.
 * @throws CountersignError `already-exists` for other terms under this id, `not-found` for an issuer this site doesn't
 *   know, those of `validateLayout`, and the grant's refusals: a site builds only where its grant says so
 */
export async function openOwnLot(context: CustodyContext, request: LotRequest): Promise<Lot> {
  // A lot for a party that can't be handed anything would never be certified.
  if (request.issuer !== context.party) await getPeer(context.db, request.issuer);
  const terms = await pinTerms(request, context.firmwareDir);
  return await openLot(context, { ...terms, builder: context.party, issuer: request.issuer }, []);
}

/**
 * Records `lot-opened` and stores the lot with it.
 * @param causes acts of other parties that the opening follows
 */
export async function openLot(
  context: CustodyContext,
  terms: LotTerms & { builder: string; issuer: string },
  causes: readonly PrevRef[],
): Promise<Lot> {
  const { db, acts } = context;
  const { id, slots, profile, layouts, builder, issuer } = terms;
  const found = await findLot(db, id);
  if (found !== undefined) return assertSame(found, terms);
  const grant = await findCurrentGrant(db);
  if (issuer === context.party) assertMayIssue(grant, terms, nowOf(context));
  if (builder === context.party)
    assertMayBuild(grant, id, (await findCaCertificate(db))?.role === "root", nowOf(context));

  const fields = {
    lot: id,
    builder,
    issuer,
    slots,
    profile,
    layouts: layouts.map(({ format, sha256, template }) => ({ format, sha256, template })),
    ...demandOf(terms.certificate ?? {}),
  };
  const settings = tidySettings(terms.certificate);
  const beside = [...placementBlobs(layouts), ...settingsBlobs(settings)];
  await acts.recordSigned(
    {
      type: "lot-opened",
      workflowId: lotWorkflowId(id),
      stepKey: "opened",
      subject: [{ name: id, digest: { sha256: sha256Hex(canonicalJson(fields)) } }],
      ...(grant === undefined ? {} : { grant: grant.ref }),
      prev: causes,
      blobs: beside.map(({ name, sha256, bytes }) => ({ name, sha256, size: bytes.length })),
      fields,
    },
    context.actSigner,
    async (tx, act) => {
      for (const { sha256, bytes } of beside) await storeBlob(tx, fromHex(sha256), bytes);
      await insertLot(tx, { ...terms, certificate: settings, ref: { origin: acts.origin, leafHash: act.leafHash } });
    },
  );
  const stored = await findLot(db, id);
  if (stored === undefined) throw new CountersignError("internal", `lot ${id} was recorded but not stored`);
  return assertSame(stored, terms);
}

/** Where the chain goes in each template, beside the ledger under the digest that the act pins. */
function placementBlobs(layouts: LotTerms["layouts"]): { name: string; sha256: string; bytes: Uint8Array }[] {
  const distinct = new Map(layouts.map((layout) => [layout.sha256, layoutBytes(layout.format, layout.placement)]));
  return [...distinct].map(([sha256, bytes]) => ({ name: "layout", sha256, bytes }));
}

function assertSame(lot: Lot, terms: LotTerms & { builder: string; issuer: string }): Lot {
  const of = ({ slots, profile, layouts, certificate, builder, issuer }: typeof terms | Lot): string => {
    const settings = tidySettings(certificate);
    return Buffer.from(canonicalJson({ slots, profile, layouts, settings, builder, issuer })).toString();
  };
  if (of(lot) === of(terms)) return lot;
  throw new CountersignError("already-exists", `a lot ${lot.id} with other terms is open here: choose another id`);
}

/** Who certifies mustn't be able to say as well that there was something to certify, unless its parent allowed that. */
function assertMayBuild(grant: CurrentGrant | undefined, lot: string, root: boolean, now: Date): void {
  if (root) return;
  if (grant === undefined) {
    throw new CountersignError("grant-missing", `this site can't build lot ${lot}: it holds no grant`);
  }
  if (!grant.fields.mayBuild) {
    throw new CountersignError(
      "grant-exceeded",
      `the grant ${grant.fields.id} doesn't allow building: lot ${lot} is opened by its builder, or ask ${grant.parent} for mayBuild`,
    );
  }
  assertInForce(grant, now);
}

function assertMayIssue(grant: CurrentGrant | undefined, terms: LotTerms, now: Date): void {
  if (grant === undefined) {
    throw new CountersignError("grant-missing", `this site can't issue for lot ${terms.id}: it holds no grant`);
  }
  const { fields } = grant;
  if (!fields.profiles.some((p) => p.name === terms.profile.name && p.sha256 === terms.profile.sha256)) {
    throw new CountersignError(
      "profile-not-granted",
      `the grant ${fields.id} doesn't allow the profile ${terms.profile.name}: ask ${grant.parent} for it`,
    );
  }
  assertInForce(grant, now);
  // Throws where the CA's own validity doesn't carry what the lot asks for.
  const issuer = issuerFromCertificate(parseCertificate(grant.certificate));
  validityFor(profileNamed(terms.profile.name), now, issuer, terms.certificate?.days);
}

function assertInForce({ fields }: CurrentGrant, now: Date): void {
  const at = now.toISOString();
  if (at < fields.notBefore) {
    throw new CountersignError("grant-not-yet-valid", `the grant ${fields.id} begins only at ${fields.notBefore}`);
  }
  if (at > fields.notAfter) {
    throw new CountersignError(
      "grant-expired",
      `the grant ${fields.id} ended at ${fields.notAfter}: ask for a new one`,
    );
  }
}
