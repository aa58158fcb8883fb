import { concatBytes } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import type { Extraction, FirmwareFormat, FirmwareTemplate, Injection, Layout, Patch, RangeReader } from "./format.ts";
import { hex } from "./hexadecimal.ts";
import { ChainPlace, extractFrom } from "./memory.ts";
import { readAll, readUpTo } from "./reader.ts";
import {
  BLOCK,
  BLOCK_COUNT_AT,
  BLOCK_NUMBER_AT,
  formatBlock,
  isBlock,
  MAX_UF2_BYTES,
  parseUf2,
  type Uf2Block,
  type Uf2Image,
} from "./uf2-blocks.ts";

/**
 * UF2 with the chain at a target address, in blocks of its own behind the others, each with as much as the image's
 * blocks have (RP2040's boot ROM takes nothing but 256 bytes at multiples of 256; the last is filled with FF). Of the
 * others only their numbers change.
 */
export const uf2: FirmwareFormat = {
  name: "uf2",
  extension: "uf2",
  summary: "UF2; --offset is the target address, a multiple of the image's payload size (usually 256)",
  takes: ["offset", "length", "encoding"],

  async detect(reader) {
    return reader.size % BLOCK === 0 && isBlock(await readUpTo(reader, 0, BLOCK));
  },

  async open(reader, layout) {
    return new Template(await readImage(reader), layout);
  },

  async extract(reader, layout) {
    return extractFrom((await readImage(reader)).segments, layout);
  },
};

class Template implements FirmwareTemplate {
  readonly #image: Uf2Image;
  readonly #place: ChainPlace;
  readonly #payload: number;
  /** of the chain that is replaced */
  readonly #removed: readonly Uf2Block[];
  /** by the number of blocks added: what changes in the blocks that stay */
  readonly #numbering = new Map<number, readonly Patch[]>();

  constructor(image: Uf2Image, layout: Layout) {
    this.#image = image;
    this.#payload = usualPayload(image.blocks);
    const { offset } = layout;
    if (offset !== undefined && offset % this.#payload !== 0) {
      throw new CountersignError(
        "usage",
        `the image's blocks hold ${this.#payload} bytes each: the offset must be a multiple of that, not ${hex(offset)}`,
      );
    }
    this.#place = new ChainPlace("uf2", image.segments, layout, this.#payload);
    this.#removed = blocksAt(image.blocks, this.#place);
  }

  async inject(chain: readonly Uint8Array[]): Promise<Injection> {
    const { same, ...plan } = this.#place.plan(chain);
    return { ...plan, patches: same ? [] : this.#patches(plan.chainBytes) };
  }

  async readBack(written: RangeReader, injection: Injection): Promise<Extraction> {
    return this.#place.readBack((await readImage(written)).segments, injection.region!);
  }

  #patches(chainBytes: Uint8Array): Patch[] {
    const { blocks, family } = this.#image;
    const added = Math.ceil(chainBytes.length / this.#payload);
    const kept = blocks.length - this.#removed.length;
    const insert = Array.from({ length: added }, (_, i) => {
      const payload = new Uint8Array(this.#payload).fill(0xff);
      payload.set(chainBytes.subarray(i * this.#payload, (i + 1) * this.#payload));
      const block = { number: kept + i, count: kept + added };
      return formatBlock(this.#place.offset + i * this.#payload, payload, block, family);
    });
    const end = { offset: blocks.length * BLOCK, remove: 0, insert: concatBytes(...insert) };
    return [...this.#renumber(added), end];
  }

  #renumber(added: number): readonly Patch[] {
    const known = this.#numbering.get(added);
    if (known !== undefined) return known;
    const { blocks } = this.#image;
    const gone = new Set(this.#removed);
    const count = blocks.length - gone.size + added;
    let number = 0;
    const patches = blocks.map((block, before): Patch => {
      if (gone.has(block)) return { offset: block.at, remove: BLOCK, insert: new Uint8Array(0) };
      const after = number++;
      const [first, words] = after === before ? [BLOCK_COUNT_AT, [count]] : [BLOCK_NUMBER_AT, [after, count]];
      const insert = new Uint8Array(4 * words.length);
      words.forEach((word, i) => new DataView(insert.buffer).setUint32(4 * i, word, true));
      return { offset: block.at + first, remove: insert.length, insert };
    });
    this.#numbering.set(added, patches);
    return patches;
  }
}

async function readImage(reader: RangeReader): Promise<Uf2Image> {
  return parseUf2(await readAll(reader, MAX_UF2_BYTES));
}

/** The most frequent payload size. */
function usualPayload(blocks: readonly Uf2Block[]): number {
  const counts = new Map<number, number>();
  for (const { memory, payload } of blocks) {
    if (memory && payload.length > 0) counts.set(payload.length, (counts.get(payload.length) ?? 0) + 1);
  }
  return [...counts].sort((a, b) => b[1] - a[1])[0]?.[0] ?? 256;
}

/** The blocks that hold the chain at the layout's place. @throws CountersignError `image-region-overlap` */
function blocksAt(blocks: readonly Uf2Block[], { here, offset }: ChainPlace): Uf2Block[] {
  if (here === undefined) return [];
  const end = offset + here.bytes.length;
  const held = blocks.filter(
    ({ memory, address, payload }) => memory && address < end && address + payload.length > offset,
  );
  for (const block of held) {
    const tail = block.payload.subarray(Math.max(0, end - block.address));
    if (block.address >= offset && tail.every((byte) => byte === 0xff)) continue;
    throw new CountersignError(
      "image-region-overlap",
      `block ${block.at / BLOCK} of the image holds part of the old chain together with other data; ` +
        "start from an image without a chain",
      { details: { block: block.at / BLOCK } },
    );
  }
  return held;
}
