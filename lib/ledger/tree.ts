/**
 * RFC 6962 / RFC 9162 section 2.1 Merkle trees over SHA-256: hashes, roots, inclusion and consistency proofs. Trees are
 * addressed by complete subtrees {level, index}, so the same decomposition serves a list in memory and a log in tiles.
 */
import { concatBytes, equalBytes } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { sha256 as portableSha256, type Sha256 } from "../domain/hash.ts";

/** Bytes in a hash. */
export const HASH_SIZE = 32;
/** No proof of a tree that a JavaScript number can count is longer. */
export const MAX_PROOF_HASHES = 64;

/** A complete subtree: leaves [index * 2^level, (index + 1) * 2^level). */
export interface Subtree {
  readonly level: number;
  readonly index: number;
}
/** Leaves [start, end). */
export interface LeafRange {
  readonly start: number;
  readonly end: number;
}

export function emptyRoot(sha256: Sha256 = portableSha256): Uint8Array {
  return sha256(new Uint8Array(0));
}

// What is hashed next, put together here: a tree is millions of short strings, each needed for one call.
const leafInput = new Uint8Array(8 * 1024);
const nodeInput = new Uint8Array(1 + 2 * HASH_SIZE);
nodeInput[0] = 1;

/** SHA-256(0x00 || entry) */
export function leafHash(entry: Uint8Array, sha256: Sha256 = portableSha256): Uint8Array {
  const length = entry.length + 1;
  const input = length <= leafInput.length ? leafInput.subarray(0, length) : new Uint8Array(length);
  input.set(entry, 1);
  return sha256(input);
}

/** SHA-256(0x01 || left || right). @throws RangeError for what isn't two SHA-256 values */
export function nodeHash(left: Uint8Array, right: Uint8Array, sha256: Sha256 = portableSha256): Uint8Array {
  // A shorter one would be completed with bytes of an earlier call, a longer left one be cut off.
  if (left.length !== HASH_SIZE || right.length !== HASH_SIZE) throw new RangeError("a SHA-256 value has 32 bytes");
  nodeInput.set(left, 1);
  nodeInput.set(right, 1 + HASH_SIZE);
  return sha256(nodeInput);
}

/** Is `n` a tree size or index that this program can count? */
export function isTreeSize(n: number): boolean {
  return Number.isSafeInteger(n) && n >= 0;
}

/** The largest power of two smaller than `n` (n >= 2). */
function splitPoint(n: number): number {
  let k = 1;
  while (k * 2 < n) k *= 2;
  return k;
}

/**
 * The complete subtrees that make up leaves [start, end), left to right. `start` must be a multiple of the smallest
 * power of two that holds the range, as it is in every RFC 6962 proof.
 */
export function subtreesOf({ start, end }: LeafRange): Subtree[] {
  const out: Subtree[] = [];
  for (let at = start; at < end;) {
    let level = 0;
    let width = 1;
    while (at + width * 2 <= end && at % (width * 2) === 0) {
      width *= 2;
      level++;
    }
    out.push({ level, index: at / width });
    at += width;
  }
  return out;
}

/** The hash of a range from the hashes of its complete subtrees, left to right; at least one. */
export function foldSubtrees(hashes: readonly Uint8Array[], sha256: Sha256 = portableSha256): Uint8Array {
  let hash = hashes[hashes.length - 1];
  if (hash === undefined) return emptyRoot(sha256);
  for (let i = hashes.length - 2; i >= 0; i--) hash = nodeHash(hashes[i]!, hash, sha256);
  return hash;
}

/**
 * The ranges whose hashes are the inclusion proof of leaf `index` in a tree of `size` leaves, leaf's sibling first.
 * @throws CountersignError `proof-invalid` when there is no such leaf
 */
export function inclusionRanges(index: number, size: number): LeafRange[] {
  if (!isTreeSize(index) || !isTreeSize(size) || index >= size) {
    throw new CountersignError("proof-invalid", `there is no leaf ${index} in a tree of ${size}`);
  }
  const out: LeafRange[] = [];
  let start = 0;
  let end = size;
  while (end - start > 1) {
    const middle = start + splitPoint(end - start);
    if (index < middle) {
      out.push({ start: middle, end });
      end = middle;
    } else {
      out.push({ start, end: middle });
      start = middle;
    }
  }
  return out.reverse();
}

/**
 * The ranges whose hashes are the consistency proof from `oldSize` to `size` (RFC 6962 section 2.1.2). Empty when the
 * sizes are equal or the old tree is empty.
 * @throws CountersignError `proof-invalid` when the old tree is the larger one
 */
export function consistencyRanges(oldSize: number, size: number): LeafRange[] {
  if (!isTreeSize(oldSize) || !isTreeSize(size) || oldSize > size) {
    throw new CountersignError("proof-invalid", `a tree of ${size} can't continue one of ${oldSize}`);
  }
  if (oldSize === 0 || oldSize === size) return [];
  const out: LeafRange[] = [];
  let start = 0;
  let end = size;
  while (end !== oldSize) {
    const middle = start + splitPoint(end - start);
    if (oldSize <= middle) {
      out.push({ start: middle, end });
      end = middle;
    } else {
      out.push({ start, end: middle });
      start = middle;
    }
  }
  if (start !== 0) out.push({ start, end });
  return out.reverse();
}

function hashOfRange(leafHashes: readonly Uint8Array[], start: number, end: number, sha256: Sha256): Uint8Array {
  // Iterative over a stack of complete subtrees, so that a list of any length fits the call stack.
  const stack: { hash: Uint8Array; size: number }[] = [];
  for (let i = start; i < end; i++) {
    let node = { hash: leafHashes[i]!, size: 1 };
    for (let top = stack.at(-1); top !== undefined && top.size === node.size; top = stack.at(-1)) {
      stack.pop();
      node = { hash: nodeHash(top.hash, node.hash, sha256), size: node.size * 2 };
    }
    stack.push(node);
  }
  return foldSubtrees(
    stack.map((node) => node.hash),
    sha256,
  );
}

/** The RFC 6962 root over leaf hashes; of none, SHA-256 of the empty string. */
export function rootOf(leafHashes: readonly Uint8Array[], sha256: Sha256 = portableSha256): Uint8Array {
  return hashOfRange(leafHashes, 0, leafHashes.length, sha256);
}

/** The inclusion proof of leaf `index`, from all leaf hashes. @throws CountersignError `proof-invalid` */
export function inclusionProof(
  leafHashes: readonly Uint8Array[],
  index: number,
  sha256: Sha256 = portableSha256,
): Uint8Array[] {
  return inclusionRanges(index, leafHashes.length).map((r) => hashOfRange(leafHashes, r.start, r.end, sha256));
}

/** Every leaf's inclusion proof at once, in n hashes: for lists whose members all get their path. */
export function inclusionProofs(
  leafHashes: readonly Uint8Array[],
  sha256: Sha256 = portableSha256,
): { root: Uint8Array; paths: Uint8Array[][] } {
  if (leafHashes.length === 0) return { root: emptyRoot(sha256), paths: [] };
  // Level by level; a lone last node moves up as it is, which is RFC 9162's tree (see rootFromInclusion).
  const levels: (readonly Uint8Array[])[] = [leafHashes];
  for (let below = leafHashes; below.length > 1; below = levels.at(-1)!) {
    const level: Uint8Array[] = [];
    for (let i = 0; i < below.length; i += 2) {
      const right = below[i + 1];
      level.push(right === undefined ? below[i]! : nodeHash(below[i]!, right, sha256));
    }
    levels.push(level);
  }
  return {
    root: levels.at(-1)![0]!,
    paths: leafHashes.map((_, index) => {
      const path: Uint8Array[] = [];
      for (let level = 0, at = index; level < levels.length - 1; level++, at = Math.floor(at / 2)) {
        const sibling = levels[level]![at % 2 === 1 ? at - 1 : at + 1];
        if (sibling !== undefined) path.push(sibling);
      }
      return path;
    }),
  };
}

/** The consistency proof from the first `oldSize` leaves to all of them. @throws CountersignError `proof-invalid` */
export function consistencyProof(
  leafHashes: readonly Uint8Array[],
  oldSize: number,
  sha256: Sha256 = portableSha256,
): Uint8Array[] {
  return consistencyRanges(oldSize, leafHashes.length).map((r) => hashOfRange(leafHashes, r.start, r.end, sha256));
}

export interface InclusionClaim {
  readonly leafHash: Uint8Array;
  readonly index: number;
  readonly size: number;
  readonly path: readonly Uint8Array[];
  readonly root: Uint8Array;
}

/** The root that a proof leads to, or undefined when its length doesn't fit the position (RFC 9162 section 2.1.3.2). */
export function rootFromInclusion(
  claim: Omit<InclusionClaim, "root">,
  sha256: Sha256 = portableSha256,
): Uint8Array | undefined {
  const { index, size, path } = claim;
  if (!isTreeSize(index) || !isTreeSize(size) || index >= size || path.length > MAX_PROOF_HASHES) return undefined;
  if (claim.leafHash.length !== HASH_SIZE) return undefined;
  let hash = claim.leafHash;
  let at = index;
  let last = size - 1;
  let used = 0;
  while (last > 0) {
    // A right child, or the last node of a level that has a left sibling; else a lone node that moves up as it is.
    if (at % 2 === 1 || at < last) {
      const sibling = path[used++];
      if (sibling === undefined || sibling.length !== HASH_SIZE) return undefined;
      hash = at % 2 === 1 ? nodeHash(sibling, hash, sha256) : nodeHash(hash, sibling, sha256);
    }
    at = Math.floor(at / 2);
    last = Math.floor(last / 2);
  }
  return used === path.length ? hash : undefined;
}

/** Does the proof show that the leaf is at `index` in the tree of `size` leaves with `root`? Never throws. */
export function verifyInclusion(claim: InclusionClaim, sha256: Sha256 = portableSha256): boolean {
  const root = rootFromInclusion(claim, sha256);
  return root !== undefined && equalBytes(root, claim.root);
}

export interface ConsistencyClaim {
  readonly oldSize: number;
  readonly oldRoot: Uint8Array;
  readonly size: number;
  readonly root: Uint8Array;
  readonly proof: readonly Uint8Array[];
}

/** Does the proof show that the larger tree continues the smaller (RFC 9162 section 2.1.4.2)? Never throws. */
export function verifyConsistency(claim: ConsistencyClaim, sha256: Sha256 = portableSha256): boolean {
  const { oldSize, oldRoot, size, root, proof } = claim;
  if (!isTreeSize(oldSize) || !isTreeSize(size) || oldSize > size || proof.length > MAX_PROOF_HASHES) return false;
  if ([oldRoot, root, ...proof].some((hash) => hash.length !== HASH_SIZE)) return false;
  if (oldSize === size) return proof.length === 0 && equalBytes(oldRoot, root);
  // Every tree continues the empty one, but then the old root must be the empty one's.
  if (oldSize === 0) return proof.length === 0 && equalBytes(oldRoot, emptyRoot(sha256));
  let at = oldSize - 1;
  let last = size - 1;
  while (at % 2 === 1) {
    at = (at - 1) / 2;
    last = Math.floor(last / 2);
  }
  let used = 0;
  // When the old tree is one complete subtree of the new, its root starts the proof and isn't repeated in it.
  const seed = at === 0 ? oldRoot : proof[used++];
  if (seed === undefined) return false;
  let oldHash = seed;
  let hash = seed;
  while (last > 0) {
    if (at % 2 === 1 || at < last) {
      const sibling = proof[used++];
      if (sibling === undefined) return false;
      if (at % 2 === 1) {
        oldHash = nodeHash(sibling, oldHash, sha256);
        hash = nodeHash(sibling, hash, sha256);
      } else {
        hash = nodeHash(hash, sibling, sha256);
      }
    }
    at = Math.floor(at / 2);
    last = Math.floor(last / 2);
  }
  return used === proof.length && equalBytes(oldHash, oldRoot) && equalBytes(hash, root);
}

/** Hashes one after the other, as in a tile. @throws CountersignError `tile-invalid` for a length that is no multiple */
export function splitHashes(bytes: Uint8Array): Uint8Array[] {
  if (bytes.length % HASH_SIZE !== 0) {
    throw new CountersignError("tile-invalid", `${bytes.length} bytes are no whole number of ${HASH_SIZE}-byte hashes`);
  }
  const out: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; at += HASH_SIZE) out.push(bytes.subarray(at, at + HASH_SIZE));
  return out;
}

export function joinHashes(hashes: readonly Uint8Array[]): Uint8Array {
  return concatBytes(...hashes);
}
