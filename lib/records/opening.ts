import { z } from "zod";
import { deviceId, sha256Hex } from "./primitives.ts";

/** A salted value as its holder shows it: whoever has it can compute the commitment that an act holds. */
export const opening = z.strictObject({
  commitment: sha256Hex,
  domain: z.string().max(64),
  salt: sha256Hex,
  value: z.unknown(),
});
export type Opening = z.infer<typeof opening>;

/** What a site shows an auditor of one device, beside the passport or the ledgers. */
export const openings = z.strictObject({
  schema: z.literal(1),
  deviceId,
  openings: z.array(opening).max(16),
});
export type Openings = z.infer<typeof openings>;
