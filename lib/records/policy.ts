import { z } from "zod";
import { partyId, sha256Hex } from "./primitives.ts";

/** What `verify` and `audit` pin: the root, and for each party its log's C2SP tlog-policy text (quorum included). */
export const policy = z.strictObject({
  schema: z.literal(1),
  rootSha256: sha256Hex,
  logs: z.record(partyId, z.string().min(1).max(16_384)),
});
export type Policy = z.infer<typeof policy>;
