import { hash } from "node:crypto";
import { nodeVerifyOnce } from "../../hsm/index.ts";
import { CountersignError, isCountersignError } from "../../lib/domain/errors.ts";
import { DEVICE_ID, assertDeviceId } from "../../lib/domain/ids.ts";
import { toHex } from "../../lib/domain/bytes.ts";
import { inclusionProofs, leafHash } from "../../lib/ledger/tree.ts";
import { checkCsr, parseCsr } from "../../lib/pki/csr.ts";
import { csrItem, type Intake } from "../../lib/records/manifest.ts";
import type { Batch, ItemResult } from "../../store/batches.ts";
import { nodeSha256 } from "../ledger/index.ts";

/** One CSR of a batch that stands on its own feet: well-formed, a strong key, proof of possession, an allowed name. */
export interface CheckedItem {
  readonly index: number;
  readonly deviceId: string;
  readonly spki: Uint8Array;
  readonly spkiSha256: string;
  readonly csr: Uint8Array;
  readonly csrSha256: string;
  readonly intake: Intake;
}

export type Refused = ItemResult & { readonly error: NonNullable<ItemResult["error"]> };

export const sha256Hex = (bytes: Uint8Array): string => hash("sha256", bytes, "hex");

export function refusal(index: number, error: unknown, device?: string): Refused {
  if (!isCountersignError(error) || error.kind === "unavailable" || error.kind === "internal") throw error;
  return { index, ...(device === undefined ? {} : { device }), error: { code: error.code, message: error.message } };
}

/**
 * Checks everything about the items that needs no database, the cheap refusals first. One item's fault is its own.
 * @param idPrefixes the namespace of the grant; undefined for the root's own party
 * @param skip indexes that have their answer already
 */
export async function checkItems(
  batch: Batch,
  idPrefixes: readonly string[] | undefined,
  skip: ReadonlySet<number>,
  onProgress?: () => void,
): Promise<{ checked: CheckedItem[]; refused: Refused[] }> {
  const digests = batch.items.map(sha256Hex);
  const { paths } = inclusionProofs(
    digests.map((digest) => leafHash(csrItem(digest), nodeSha256)),
    nodeSha256,
  );
  const checked: CheckedItem[] = [];
  const refused: Refused[] = [];
  for (const [index, der] of batch.items.entries()) {
    if (skip.has(index)) continue;
    let deviceId: string | undefined;
    try {
      const csr = parseCsr(der);
      deviceId = assertDeviceId(csr.subjectCn ?? "");
      assertInNamespace(deviceId, idPrefixes);
      await checkCsr(csr, nodeVerifyOnce);
      checked.push({
        index,
        deviceId,
        spki: csr.spki,
        spkiSha256: sha256Hex(csr.spki),
        csr: der,
        csrSha256: digests[index]!,
        intake: { kind: "manifest", digest: batch.manifestSha256, index, path: paths[index]!.map(toHex) },
      });
    } catch (error) {
      refused.push(refusal(index, error, deviceId !== undefined && DEVICE_ID.test(deviceId) ? deviceId : undefined));
    }
    if (index % 32 === 31) {
      onProgress?.();
      // Verification is synchronous: let heartbeats, requests and the sequencer have their turn.
      await new Promise(setImmediate);
    }
  }
  return { checked, refused };
}

function assertInNamespace(deviceId: string, idPrefixes: readonly string[] | undefined): void {
  if (idPrefixes === undefined || idPrefixes.some((prefix) => deviceId.startsWith(prefix))) return;
  throw new CountersignError(
    "device-id-outside-namespace",
    `the device ID ${deviceId} begins with none of ${idPrefixes.join(", ")}, which is what this site's grant allows`,
  );
}
