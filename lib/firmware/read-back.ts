import { equalBytes } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import type { FirmwareTemplate, Injection, RangeReader } from "./format.ts";
import { differenceOutsidePatches } from "./patch.ts";

/**
 * Judges an image that was written, from its own bytes: the chain found in it is the one that was to be injected, the
 * content outside the region is the template's, and every byte of the file that no patch touches is the original's.
 * @throws CountersignError `read-back-mismatch`, or the errors of `extract`
 */
export async function checkWritten(
  template: FirmwareTemplate,
  original: RangeReader,
  written: RangeReader,
  injection: Injection,
): Promise<void> {
  const difference = await differenceOutsidePatches(original, written, injection.patches);
  if (difference !== undefined) {
    throw new CountersignError(
      "read-back-mismatch",
      `the written image differs from the original at byte ${difference}, outside what was injected`,
      { details: { offset: difference } },
    );
  }
  const found = await template.readBack(written, injection);
  if (!equalBytes(found.chainBytes, injection.chainBytes) || found.encoding !== injection.encoding) {
    throw new CountersignError(
      "read-back-mismatch",
      "the chain read back from the written image isn't the injected one",
    );
  }
}
