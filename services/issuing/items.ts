import { hash } from "node:crypto";
import { verifyTogether } from "../../hsm/index.ts";
import { CountersignError, isCountersignError } from "../../lib/domain/errors.ts";
import { DEVICE_ID, assertDeviceId } from "../../lib/domain/ids.ts";
import { toHex } from "../../lib/domain/bytes.ts";
import { inclusionProofs, leafHash } from "../../lib/ledger/tree.ts";
import { checkCsr, parseCsr } from "../../lib/pki/csr.ts";
import { csrItem } from "../../lib/records/manifest.ts";
import type { Batch, ItemResult } from "../../store/batches.ts";
import type { ManifestIntake } from "../../store/issuance.ts";
import { nodeSha256 } from "../ledger/index.ts";

/** One CSR of a batch that stands on its own feet: well-formed, a strong key, proof of possession, an allowed name. */
export interface CheckedItem {
  readonly index: number;
  readonly deviceId: string;
  readonly spki: Uint8Array;
  readonly spkiSha256: string;
  readonly csr: Uint8Array;
  readonly csrSha256: string;
  readonly intake: ManifestIntake;
}

export type Refused = ItemResult & { readonly error: NonNullable<ItemResult["error"]> };

export const sha256Hex = (bytes: Uint8Array): string => hash("sha256", bytes, "hex");

export function refusal(index: number, error: unknown, device?: string): Refused {
  if (!isCountersignError(error) || error.kind === "unavailable" || error.kind === "internal") throw error;
  return { index, ...(device === undefined ? {} : { device }), error: { code: error.code, message: error.message } };
}

/** Signatures under check at once: enough for every thread, and heartbeats, requests and the sequencer have their turn. */
const SIDE_BY_SIDE = 64;

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
  const hexOf = hexOnce();
  const checked: CheckedItem[] = [];
  const refused: Refused[] = [];
  const open = [...batch.items.keys()].filter((index) => !skip.has(index));
  for (let at = 0; at < open.length; at += SIDE_BY_SIDE) {
    const some = open.slice(at, at + SIDE_BY_SIDE).map(async (index) => {
      let deviceId: string | undefined;
      try {
        const csr = parseCsr(batch.items[index]!);
        deviceId = assertDeviceId(csr.subjectCn ?? "");
        assertInNamespace(deviceId, idPrefixes);
        await checkCsr(csr, verifyTogether);
        const intake = {
          kind: "manifest",
          digest: batch.manifestSha256,
          index,
          path: paths[index]!.map(hexOf),
        } as const;
        return { index, deviceId, csr, intake };
      } catch (error) {
        return refusal(index, error, deviceId !== undefined && DEVICE_ID.test(deviceId) ? deviceId : undefined);
      }
    });
    for (const item of await Promise.all(some)) {
      if ("error" in item) {
        refused.push(item);
        continue;
      }
      const { spki } = item.csr;
      const csr = { csr: batch.items[item.index]!, csrSha256: digests[item.index]! };
      checked.push({
        index: item.index,
        deviceId: item.deviceId,
        spki,
        spkiSha256: sha256Hex(spki),
        ...csr,
        intake: item.intake,
      });
    }
    onProgress?.();
  }
  return { checked, refused };
}

/** As toHex, for the paths of one list: they share their nodes, each of which is written once. */
export function hexOnce(): (hash: Uint8Array) => string {
  const known = new Map<Uint8Array, string>();
  return (hash) => {
    let hex = known.get(hash);
    if (hex === undefined) known.set(hash, (hex = toHex(hash)));
    return hex;
  };
}

function assertInNamespace(deviceId: string, idPrefixes: readonly string[] | undefined): void {
  if (idPrefixes === undefined || idPrefixes.some((prefix) => deviceId.startsWith(prefix))) return;
  throw new CountersignError(
    "device-id-outside-namespace",
    `the device ID ${deviceId} begins with none of ${idPrefixes.join(", ")}, which is what this site's grant allows`,
  );
}
