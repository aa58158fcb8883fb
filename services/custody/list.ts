import { fromUtf8, toHex, utf8 } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { DEVICE_ID } from "../../lib/domain/ids.ts";
import { inclusionProofs, leafHash, rootOf } from "../../lib/ledger/tree.ts";
import { handoffItem, type HandoffItem } from "../../lib/records/manifest.ts";
import { nodeSha256 } from "../ledger/index.ts";

/** A handoff's list: what its root is over, and the blob beside the ledger with one item's canonical JSON a line. */

const leaves = (items: readonly HandoffItem[]): Uint8Array[] =>
  items.map((item) => leafHash(handoffItem(item), nodeSha256));

export function listRoot(items: readonly HandoffItem[]): string {
  return toHex(rootOf(leaves(items), nodeSha256));
}

/** Every item's audit path, by its index; spelt out only when it is asked for. */
export function listPaths(items: readonly HandoffItem[]): (index: number) => string[] {
  const { paths } = inclusionProofs(leaves(items), nodeSha256);
  return (index) => paths[index]!.map(toHex);
}

export function encodeList(items: readonly HandoffItem[]): Uint8Array {
  return utf8(items.map((item) => `${fromUtf8(handoffItem(item))}\n`).join(""));
}

/** Reads back what {@link encodeList} wrote: for lists that were checked on their way in. */
export function decodeList(bytes: Uint8Array): HandoffItem[] {
  return fromUtf8(bytes)
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const [, deviceId, spkiSha256, csrSha256, slot, prev] = JSON.parse(line) as [
        string,
        string,
        string,
        string,
        number,
        string,
      ];
      return { deviceId, spkiSha256, csrSha256, slot, prev };
    });
}

/**
 * What another party says it hands over: well-named devices, each with a slot and key of its own.
 * @throws CountersignError `handoff-mismatch`
 */
export function assertList(items: readonly HandoffItem[], slots: number): void {
  const seen = new Set<string>();
  for (const { deviceId, spkiSha256, slot } of items) {
    if (!DEVICE_ID.test(deviceId)) throw mismatch(`the list has a device ID that isn't one, for slot ${slot}`);
    if (slot > slots) throw mismatch(`the list has slot ${slot}, the lot ends at ${slots}`);
    for (const name of [`id ${deviceId}`, `key ${spkiSha256}`, `slot ${slot}`]) {
      if (seen.has(name)) throw mismatch(`the list has ${name} twice`);
      seen.add(name);
    }
  }
}

export function mismatch(message: string): CountersignError {
  return new CountersignError("handoff-mismatch", `the handoff is not accepted: ${message}`);
}
