import { fromHex, toHex } from "../../../lib/domain/bytes.ts";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { commitment } from "../../../lib/records/manifest.ts";
import { openings as openingsSchema, type Opening, type Openings } from "../../../lib/records/opening.ts";
import { nodeSha256 } from "./hash.ts";
import { readNeeded } from "./folder.ts";

/**
 * What `countersign openings` wrote, each value held against the commitment that it is said to open.
 * @throws CountersignError `input-invalid` for a file that isn't one, `opening-invalid` for a value that doesn't fit
 */
export async function readOpenings(path: string): Promise<Openings> {
  const bytes = await readNeeded(path, "the openings");
  let read: Openings;
  try {
    read = openingsSchema.parse(JSON.parse(Buffer.from(bytes).toString("utf8")));
  } catch (cause) {
    const why = (cause as Error).message.split("\n")[0];
    throw new CountersignError("input-invalid", `${path} holds no openings of a device: ${why}`, { cause });
  }
  for (const opening of read.openings) {
    if (committed(opening) === opening.commitment) continue;
    throw new CountersignError(
      "opening-invalid",
      `${path}: its ${opening.domain} isn't what the commitment stands for`,
    );
  }
  return read;
}

function committed({ domain, salt, value }: Opening): string {
  return toHex(commitment(domain, fromHex(salt), value, nodeSha256));
}
