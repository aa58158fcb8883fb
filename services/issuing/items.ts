import { hash } from "node:crypto";
import { verifyTogether } from "../../hsm/index.ts";
import { CountersignError, isCountersignError } from "../../lib/domain/errors.ts";
import { DEVICE_ID, assertDeviceId } from "../../lib/domain/ids.ts";
import { toHex } from "../../lib/domain/bytes.ts";
import { inclusionProofs, leafHash } from "../../lib/ledger/tree.ts";
import { checkCsr, parseCsr } from "../../lib/pki/csr.ts";
import { csrItem } from "../../lib/records/manifest.ts";
import type { Answered, Batch, ItemResult } from "../../store/batches.ts";
import type { ManifestIntake } from "../../store/issuance.ts";
import { nodeSha256 } from "../ledger/index.ts";

/** One CSR of a batch that stands on its own feet: well-formed, a strong key, proof of possession, an allowed name. */
export interface CheckedItem {
  readonly batch: string;
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

export function refusal(
  { batch, index }: Pick<ItemResult, "batch" | "index">,
  error: unknown,
  device?: string,
): Refused {
  if (!isCountersignError(error) || error.kind === "unavailable" || error.kind === "internal") throw error;
  const { code, message } = error;
  return { batch, index, ...(device === undefined ? {} : { device }), error: { code, message } };
}

/** Signatures under check at once: enough for every thread, and heartbeats, requests and the sequencer have their turn. */
const SIDE_BY_SIDE = 64;

/**
 * Checks everything about the items that needs no database, the cheap refusals first. One item's fault is its own.
 * @param idPrefixes the namespace of the grant; undefined for the root's own party
 * @param answered which items have their answer already, and are left out
 */
export async function checkItems(
  batches: readonly Batch[],
  idPrefixes: readonly string[] | undefined,
  answered: Answered,
  onProgress?: () => void,
): Promise<{ checked: CheckedItem[]; refused: Refused[] }> {
  const open = batches.flatMap(unchecked).filter((item) => !answered(item));
  const checked: CheckedItem[] = [];
  const refused: Refused[] = [];
  for (let at = 0; at < open.length; at += SIDE_BY_SIDE) {
    const some = open.slice(at, at + SIDE_BY_SIDE).map(async (item): Promise<CheckedItem | Refused> => {
      let deviceId: string | undefined;
      try {
        const csr = parseCsr(item.csr);
        deviceId = assertDeviceId(csr.subjectCn ?? "");
        assertInNamespace(deviceId, idPrefixes);
        await checkCsr(csr, verifyTogether);
        return { ...item, deviceId, spki: csr.spki, spkiSha256: sha256Hex(csr.spki) };
      } catch (error) {
        return refusal(item, error, deviceId !== undefined && DEVICE_ID.test(deviceId) ? deviceId : undefined);
      }
    });
    for (const item of await Promise.all(some)) {
      if ("error" in item) refused.push(item);
      else checked.push(item);
    }
    onProgress?.();
  }
  return { checked, refused };
}

type Unchecked = Pick<CheckedItem, "batch" | "index" | "csr" | "csrSha256" | "intake">;

function unchecked(batch: Batch): Unchecked[] {
  const digests = batch.items.map(sha256Hex);
  const { paths } = inclusionProofs(
    digests.map((digest) => leafHash(csrItem(digest), nodeSha256)),
    nodeSha256,
  );
  const hexOf = hexOnce();
  const digest = batch.manifestSha256;
  return batch.items.map((csr, index) => {
    const intake = { kind: "manifest", digest, index, path: paths[index]!.map(hexOf) } as const;
    return { batch: batch.id, index, csr, csrSha256: digests[index]!, intake };
  });
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
