import { join } from "node:path";
import { z } from "zod";
import { CountersignError, isCountersignError } from "../../lib/domain/errors.ts";
import { canonicalJson } from "../../lib/domain/json.ts";
import type { Layout } from "../../lib/firmware/index.ts";
import { profileDigest } from "../../lib/pki/profiles.ts";
import { certificateSettings } from "../../lib/records/certificate-settings.ts";
import { lotId, partyId, profileRef, sha256Hex, slotNumber } from "../../lib/records/primitives.ts";
import { FIRMWARE_FORMATS } from "../../lib/records/receipt.ts";
import type { Lot } from "../../store/lots.ts";
import { validateLayout } from "../firmware/prepared.ts";
import { sha256Hex as digestOf } from "../ledger/index.ts";
import { assertSettings, tidySettings } from "./settings.ts";

const templateName = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/, "expected the name of a file in the firmware folder");
const printable = (max: number) =>
  z
    .string()
    .max(max)
    .regex(/^[\x20-\x7e]+$/, "expected printable ASCII");
/** What `Layout` has; which of it a format takes is checked against the template. */
const placement = {
  offset: z.int().min(0).max(0xffff_ffff).optional(),
  length: z.int().min(1).max(0xffff_ffff).optional(),
  partition: printable(16).optional(),
  namespace: printable(15).optional(),
  key: printable(15).optional(),
  type: z.enum(["blob", "string"]).optional(),
  path: printable(512).optional(),
  mode: z.int().min(0).max(0o777).optional(),
  tag: z.int().min(0).max(0xffff).optional(),
  section: printable(64).optional(),
  encoding: z.enum(["pem-nul", "pem", "der"]).optional(),
  replace: z.boolean().optional(),
} satisfies Record<keyof Layout, z.ZodType>;

/** A layout as an operator asks for it: which template image, and where in it the chain goes. */
export const layoutRequest = z.strictObject({ format: z.enum(FIRMWARE_FORMATS), template: templateName, ...placement });
export type LayoutRequest = z.infer<typeof layoutRequest>;

/** Device profiles only: a lot never issues a CA or a client certificate. */
export const DEVICE_PROFILES = ["idevid", "ldevid"] as const;

export const lotRequest = z.strictObject({
  id: lotId,
  slots: slotNumber,
  issuer: partyId,
  profile: z.enum(DEVICE_PROFILES),
  layouts: z.array(layoutRequest).min(1).max(8),
  certificate: certificateSettings.optional(),
});
export type LotRequest = z.infer<typeof lotRequest>;

/** A layout as the lot's record pins it. */
export const pinnedLayout = z.strictObject({
  format: z.enum(FIRMWARE_FORMATS),
  /** of the canonical JSON of {format, placement} */
  sha256: sha256Hex,
  template: z.strictObject({ name: templateName, sha256: sha256Hex }),
  placement: z.strictObject(placement),
});
export type PinnedLayout = z.infer<typeof pinnedLayout>;

/** A lot as its opener describes it to the taker of a handoff. */
export const lotTerms = z.strictObject({
  id: lotId,
  slots: slotNumber,
  profile: profileRef,
  layouts: z.array(pinnedLayout).min(1).max(8),
  certificate: certificateSettings.optional(),
});
export type LotTerms = z.infer<typeof lotTerms>;

/** A lot as this site holds it, for another party. Settings that say nothing are left out, as before there were any. */
export function termsOf({ id, slots, profile, layouts, certificate }: Lot): LotTerms {
  const settings = tidySettings(certificate);
  const chosen = Object.keys(settings).length === 0 ? {} : { certificate: settings };
  return lotTerms.parse({ id, slots, profile, layouts, ...chosen });
}

/** What a layout's digest is over. */
export function layoutBytes(format: string, layout: Layout): Uint8Array {
  return canonicalJson({ format, ...layout });
}

export function layoutDigest(format: string, layout: Layout): string {
  return digestOf(layoutBytes(format, layout));
}

/** The placement without keys that hold nothing: one spelling for each layout. */
function tidy({ format: _format, template: _template, ...layout }: LayoutRequest): PinnedLayout["placement"] {
  return Object.fromEntries(Object.entries(layout).filter(([, value]) => value !== undefined));
}

/**
 * Reads the templates and checks each layout against its own, and the certificate settings against the profile.
 * @throws CountersignError `profile-violation`, those of `validateLayout`
 */
export async function pinTerms(request: LotRequest, firmwareDir: string): Promise<LotTerms> {
  const layouts: PinnedLayout[] = [];
  for (const layout of request.layouts) {
    const placement = tidy(layout);
    const { sha256 } = await validateLayout({
      format: layout.format,
      templatePath: join(firmwareDir, layout.template),
      layout: placement,
    }).catch((cause: unknown) => {
      // What the operator named isn't there: asking again won't bring it.
      if (!isCountersignError(cause) || cause.code !== "component-missing") throw cause;
      throw new CountersignError("input-invalid", `the firmware folder has no template ${layout.template}`, { cause });
    });
    layouts.push({
      format: layout.format,
      sha256: layoutDigest(layout.format, placement),
      template: { name: layout.template, sha256 },
      placement,
    });
  }
  const profile = { name: request.profile, sha256: profileDigest(request.profile) };
  const certificate = tidySettings(request.certificate);
  assertSettings(request.profile, certificate);
  return { id: request.id, slots: request.slots, profile, layouts, certificate };
}

/**
 * Checks terms that came from another party: the same profile and templates must be here.
 * @throws CountersignError `handoff-mismatch`, `profile-not-granted`, and those of `validateLayout`
 */
export async function checkTerms(terms: LotTerms, firmwareDir: string): Promise<void> {
  const known = (DEVICE_PROFILES as readonly string[]).includes(terms.profile.name);
  if (!known || profileDigest(terms.profile.name) !== terms.profile.sha256) {
    throw new CountersignError("profile-not-granted", `the lot's profile ${terms.profile.name} is another one here`);
  }
  assertSettings(terms.profile.name, terms.certificate ?? {});
  for (const layout of terms.layouts) {
    if (layoutDigest(layout.format, layout.placement) !== layout.sha256) {
      throw new CountersignError("handoff-mismatch", `the layout for ${layout.template.name} doesn't have its digest`);
    }
    await validateLayout({
      format: layout.format,
      templatePath: join(firmwareDir, layout.template.name),
      templateSha256: layout.template.sha256,
      layout: layout.placement,
    });
  }
}

export function layoutOfSlot(layouts: readonly PinnedLayout[], slot: number): PinnedLayout {
  return layouts[(slot - 1) % layouts.length]!;
}
