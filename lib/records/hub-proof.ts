import { z } from "zod";
import { fromUtf8 } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { partyId, sha256Hex } from "./primitives.ts";

/** A hub's codes, on their way to the token of an offline CA: `hub ca code --hub`, `ceremony prove`. */
export const hubProof = z.strictObject({
  schema: z.literal("countersign/hub-proof/v1"),
  party: partyId,
  /** the hub's name in the site's configuration */
  hub: z.string().regex(/^[a-z0-9][a-z0-9-]{0,31}$/),
  /** the CA's name there */
  name: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/),
  /** of the CA's certificate, DER */
  caSha256: sha256Hex,
  codes: z
    .array(
      z.strictObject({
        place: z.string().min(1).max(128),
        code: z.string().regex(/^[A-Za-z0-9_-]{8,64}$/, "expected a hub's verification code"),
      }),
    )
    .min(1)
    .max(8),
});
export type HubProof = z.infer<typeof hubProof>;

const MAX_BYTES = 16 * 1024;

/** @throws CountersignError `input-invalid`, `input-too-large` */
export function parseHubProof(bytes: Uint8Array): HubProof {
  if (bytes.length > MAX_BYTES) {
    throw new CountersignError("input-too-large", `the hub's codes have ${bytes.length} bytes, at most ${MAX_BYTES}`);
  }
  let parsed: unknown;
  try {
    parsed = JSON.parse(fromUtf8(bytes));
  } catch (cause) {
    throw new CountersignError("input-invalid", "the hub's codes aren't readable JSON", { cause });
  }
  const checked = hubProof.safeParse(parsed);
  if (checked.success) return checked.data;
  const issue = checked.error.issues[0];
  const why = `${issue?.path.join(".") ?? ""}: ${issue?.message ?? "invalid"}`;
  throw new CountersignError("input-invalid", `the hub's codes: ${why}`);
}
