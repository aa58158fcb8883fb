import { stat } from "node:fs/promises";
import { equalBytes } from "../../lib/domain/bytes.ts";
import { CountersignError, isCountersignError } from "../../lib/domain/errors.ts";
import { encodeChain } from "../../lib/firmware/index.ts";
import { parseCertificate } from "../../lib/pki/certificate.ts";
import { findInjections, type DeviceInjection } from "../../store/injections.ts";
import type { Lot } from "../../store/lots.ts";
import { digestOfFile, extractFile } from "../firmware/one-file.ts";
import { sha256Hex } from "../ledger/index.ts";
import type { CustodyContext } from "./context.ts";
import { layoutOfSlot, pinnedLayout } from "./terms.ts";

/**
 * Looks at the images of devices that are about to leave the line: one whose image couldn't be made, or whose image no
 * longer holds its own chain (another device's was put in its place), doesn't leave. Devices that this site never
 * injected aren't asked for an image: they may be provisioned by other means. An image that has been moved away rests on
 * the read-back that its receipt vouches for.
 * @returns a refusal for each device that stays
 */
export async function imageFaults(
  { db }: CustodyContext,
  lot: Lot,
  devices: readonly string[],
): Promise<Map<string, CountersignError>> {
  const faults = new Map<string, CountersignError>();
  for (const injection of await findInjections(db, lot.profile.name, devices)) {
    try {
      await checkImage(lot, injection);
    } catch (error) {
      if (!isCountersignError(error)) throw error;
      faults.set(injection.device, error);
    }
  }
  return faults;
}

async function checkImage(lot: Lot, injection: DeviceInjection): Promise<void> {
  const { certificate, code, device, imagePath, message, receipt, spkiSha256 } = injection;
  if (receipt === null || imagePath === null) {
    throw mismatch(device, `its image could not be made (${message ?? code}); inject the lot again`);
  }
  if (certificate === null || sha256Hex(parseCertificate(certificate).spki) !== spkiSha256) {
    throw mismatch(device, "its certificate doesn't hold the key of its CSR");
  }
  if (!(await exists(imagePath))) return;
  const layouts = lot.layouts.map((layout) => pinnedLayout.parse(layout));
  const { format, placement } = layoutOfSlot(layouts, receipt.slot);
  const found = await extractFile({ format, layout: placement, image: imagePath }).catch((cause: unknown) => {
    if (!isCountersignError(cause)) throw cause;
    throw mismatch(device, `its image can't be read back: ${cause.message}`, cause);
  });
  if (!equalBytes(found.chain[0]!, certificate)) {
    const cn = parseCertificate(found.chain[0]!).subject.cn ?? "no device";
    throw mismatch(device, `its image holds the certificate of ${cn}, not its own; inject it again`);
  }
  if (sha256Hex(encodeChain(found.chain, found.encoding)) !== receipt.chain.sha256) {
    throw mismatch(device, "its image holds another chain than its receipt says; inject it again");
  }
  if ((await digestOfFile(imagePath)) !== receipt.image.sha256) {
    throw mismatch(device, "its image isn't the one that was read back and recorded: it was changed since");
  }
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}

function mismatch(device: string, why: string, cause?: unknown): CountersignError {
  return new CountersignError("read-back-mismatch", `device ${device} stays here: ${why}`, { cause });
}
