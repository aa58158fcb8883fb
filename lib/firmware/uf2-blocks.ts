import { CountersignError } from "../domain/errors.ts";
import { ADDRESS_SPACE, toSegments, type Segment } from "./memory.ts";

/**
 * UF2 (Microsoft's format for drag-and-drop bootloaders): blocks of 512 bytes that each carry up to 476 bytes for one
 * target address, numbered without a gap.
 */

export const BLOCK = 512;
export const MAX_UF2_BYTES = 64 << 20;
const MAX_PAYLOAD = 476;
const MAGIC = [0x0a324655, 0x9e5d5157] as const;
const END_MAGIC = 0x0ab16f30;

const NOT_MAIN_FLASH = 0x1;
const FILE_CONTAINER = 0x1000;
const FAMILY = 0x2000;
export const BLOCK_NUMBER_AT = 20;
export const BLOCK_COUNT_AT = 24;

export interface Uf2Block {
  /** in the file */
  readonly at: number;
  readonly flags: number;
  readonly address: number;
  readonly payload: Uint8Array;
  /** false for blocks that the bootloader passes over or that hold files */
  readonly memory: boolean;
}

export interface Uf2Image {
  readonly blocks: readonly Uf2Block[];
  readonly segments: readonly Segment[];
  /** undefined where blocks name none */
  readonly family: number | undefined;
}

export function isBlock(bytes: Uint8Array): boolean {
  if (bytes.length < BLOCK) return false;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return (
    view.getUint32(0, true) === MAGIC[0] &&
    view.getUint32(4, true) === MAGIC[1] &&
    view.getUint32(BLOCK - 4, true) === END_MAGIC
  );
}

/** @throws CountersignError `image-invalid` with the block in `details` */
export function parseUf2(file: Uint8Array): Uf2Image {
  if (file.length === 0 || file.length % BLOCK !== 0) {
    throw new CountersignError(
      "image-invalid",
      `the UF2 image has ${file.length} bytes, no whole number of blocks of ${BLOCK}: it is cut off`,
    );
  }
  const count = file.length / BLOCK;
  const blocks: Uf2Block[] = [];
  const families = new Set<number | undefined>();
  for (let n = 0; n < count; n++) {
    const bytes = file.subarray(n * BLOCK, (n + 1) * BLOCK);
    if (!isBlock(bytes)) throw invalid(n, "its magic numbers are wrong");
    const view = new DataView(bytes.buffer, bytes.byteOffset, BLOCK);
    const flags = view.getUint32(8, true);
    const address = view.getUint32(12, true);
    const size = view.getUint32(16, true);
    if (view.getUint32(BLOCK_NUMBER_AT, true) !== n || view.getUint32(BLOCK_COUNT_AT, true) !== count) {
      throw invalid(
        n,
        `it says it is block ${view.getUint32(BLOCK_NUMBER_AT, true)} of ${view.getUint32(BLOCK_COUNT_AT, true)}, the ` +
          `file has ${count}: a block is missing, or several UF2 files follow each other`,
      );
    }
    if (size > MAX_PAYLOAD) throw invalid(n, `it says it holds ${size} bytes, a block has room for ${MAX_PAYLOAD}`);
    const memory = (flags & (NOT_MAIN_FLASH | FILE_CONTAINER)) === 0;
    if (memory && address + size > ADDRESS_SPACE) throw invalid(n, "its data runs past 4 GiB");
    if (memory) families.add(flags & FAMILY ? view.getUint32(28, true) : undefined);
    blocks.push({ at: n * BLOCK, flags, address, payload: bytes.subarray(32, 32 + size), memory });
  }
  if (families.size > 1) {
    throw new CountersignError(
      "image-invalid",
      "the UF2 image holds blocks for several families of chips; give the file of one of them",
    );
  }
  const parts = blocks.filter(({ memory }) => memory);
  const segments = toSegments(
    parts.map(({ address, payload }) => ({ address, bytes: payload })),
    (i, address) => invalid(parts[i]!.at / BLOCK, `address 0x${address.toString(16).toUpperCase()} is written twice`),
  );
  return { blocks, segments, family: [...families][0] };
}

/** @param block its number and how many there are */
export function formatBlock(
  address: number,
  payload: Uint8Array,
  block: { readonly number: number; readonly count: number },
  family: number | undefined,
): Uint8Array {
  const bytes = new Uint8Array(BLOCK);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC[0], true);
  view.setUint32(4, MAGIC[1], true);
  view.setUint32(8, family === undefined ? 0 : FAMILY, true);
  view.setUint32(12, address, true);
  view.setUint32(16, payload.length, true);
  view.setUint32(BLOCK_NUMBER_AT, block.number, true);
  view.setUint32(BLOCK_COUNT_AT, block.count, true);
  view.setUint32(28, family ?? 0, true);
  bytes.set(payload, 32);
  view.setUint32(BLOCK - 4, END_MAGIC, true);
  return bytes;
}

function invalid(block: number, why: string): CountersignError {
  return new CountersignError("image-invalid", `block ${block} of the UF2 image is broken: ${why}`, {
    details: { block },
  });
}
