import { z } from "zod";
import { base64, vkey } from "./primitives.ts";

/** A checkpoint as it was seen, cosignatures included: as long as any note may be, or a log could pad its way out. */
const note = z.string().min(1).max(262_144);
const hash = base64(32);

/**
 * Two checkpoints of one log that no single history has, in a file that proves it to anybody who knows the log's key:
 * both are signed by it; by `proof` (RFC 6962 section 2.1.2) the larger tree begins with `smaller.size` leaves of root
 * `prefixRoot`; the smaller checkpoint says another root. At one size the larger's own root is the prefix's.
 */
export const splitView = z.strictObject({
  schema: z.literal(1),
  kind: z.literal("split-view"),
  /** the log's verifier key */
  vkey,
  smaller: note,
  larger: note,
  prefixRoot: hash,
  proof: z.array(hash).max(64),
});
export type SplitView = z.infer<typeof splitView>;
