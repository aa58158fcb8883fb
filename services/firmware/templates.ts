import { randomUUID } from "node:crypto";
import { mkdir, open, readFile, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { CountersignError } from "../../lib/domain/errors.ts";
import { equalBytes } from "../../lib/domain/bytes.ts";
import { erasedPartition } from "../../lib/firmware/index.ts";

/**
 * The original image of an esp-secure-cert injection: the partition as the chip has it before provisioning, erased.
 * Written once; a file that is something else is refused rather than overwritten.
 * @throws CountersignError `state-conflict`
 */
export async function ensureErasedPartition(path: string): Promise<void> {
  const erased = erasedPartition();
  const there = await readFile(path).catch(() => undefined);
  if (there !== undefined) {
    if (equalBytes(there, erased)) return;
    throw new CountersignError("state-conflict", `${path} is not an erased partition; move it away and run this again`);
  }
  await mkdir(dirname(path), { recursive: true });
  const temporary = `${path}.${randomUUID()}.tmp`;
  try {
    const handle = await open(temporary, "wx");
    try {
      await handle.writeFile(erased);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
}
