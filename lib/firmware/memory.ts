import { equalBytes } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { parseCertificate } from "../pki/certificate.ts";
import {
  checkEncoding,
  decodeDerChain,
  deviceChain,
  encodeChain,
  findChains,
  holdsOther,
  type FoundChain,
} from "./chain.ts";
import type { ChainEncoding, Extraction, Injection, Layout, Region } from "./format.ts";
import { hex, range } from "./hexadecimal.ts";

/**
 * Target memory, as formats with addresses describe it: what lies where, which chains are in it, and whether a new one
 * has a place. No format in particular.
 */

export const ADDRESS_SPACE = 2 ** 32;

/** A contiguous run of target memory. Lists of them are sorted, apart, and each as long as it can be. */
export interface Segment {
  readonly address: number;
  readonly bytes: Uint8Array;
}

export interface Plan extends Omit<Injection, "patches" | "region"> {
  readonly region: Region;
  /** the image holds exactly this chain already */
  readonly same: boolean;
}

/** The place that a layout gives the chain in one image's memory. */
export class ChainPlace {
  readonly offset: number;
  readonly encoding: ChainEncoding;
  /** the chain that lies exactly there already */
  readonly here: FoundChain | undefined;
  readonly #segments: readonly Segment[];
  readonly #layout: Layout;
  readonly #held: readonly FoundChain[];
  readonly #unit: number;

  /**
   * @param unit bytes that are written at once: the chain takes whole ones, filled with FF
   * @throws CountersignError `usage`, `image-region-overlap`
   */
  constructor(format: string, segments: readonly Segment[], layout: Layout, unit = 1) {
    const { offset, length } = layout;
    if (offset === undefined) {
      throw new CountersignError("usage", `an ${format} image needs the chain's target address: give --offset`);
    }
    if (!Number.isInteger(offset) || offset < 0 || offset >= ADDRESS_SPACE) {
      throw new CountersignError("usage", `the offset must be a target address below 4 GiB, not ${offset}`);
    }
    if (length !== undefined && (!Number.isInteger(length) || length < 1 || offset + length > ADDRESS_SPACE)) {
      throw new CountersignError("usage", `the length must be 1 or more and end below 4 GiB, not ${length}`);
    }
    this.offset = offset;
    this.encoding = checkEncoding(format, layout.encoding, ["pem-nul", "der"]);
    this.#segments = segments;
    this.#layout = layout;
    this.#unit = unit;
    this.#held = chainsIn(segments);
    this.here = this.#held.find(({ address }) => address === offset) ?? derChainAt(segments, offset);
    this.checkFree(length ?? 1);
  }

  /** @throws CountersignError `image-region-overlap` when the region holds anything but a chain at its start */
  checkFree(length: number): void {
    const from = this.offset + this.#whole(this.here?.bytes.length ?? 0);
    const used = firstUsed(this.#segments, from, this.offset + length);
    if (used === undefined) return;
    throw new CountersignError(
      "image-region-overlap",
      `the region ${range(this.offset, length)} overlaps the image's own data at ${hex(used)}; choose free memory`,
      { details: { offset: this.offset, length, used } },
    );
  }

  /** @throws CountersignError as `FirmwareTemplate.inject` */
  plan(chain: readonly Uint8Array[]): Plan {
    const chainBytes = encodeChain(chain, this.encoding);
    const reserved = this.#layout.length ?? ADDRESS_SPACE - this.offset;
    const needed = this.#whole(chainBytes.length);
    if (needed > reserved) {
      throw new CountersignError(
        "image-region-too-small",
        `the chain needs ${needed} bytes, the region at ${hex(this.offset)} has ${reserved}; reserve more`,
        { details: { needed, available: reserved } },
      );
    }
    const region = { offset: this.offset, length: Math.max(needed, this.#whole(this.here?.bytes.length ?? 0)) };
    const same = this.here !== undefined && equalBytes(this.here.bytes, chainBytes);
    if (!same && this.here !== undefined && this.#layout.replace !== true) throw this.#holdsOther(this.here);
    this.checkFree(region.length);
    this.#refuseAmbiguity(chain[0]!);
    return { region, encoding: this.encoding, chainBytes, same };
  }

  /**
   * The chain in an image that was written, whose content outside the region is the template's.
   * @throws CountersignError `read-back-mismatch`, and those of `extractFrom`
   */
  readBack(written: readonly Segment[], region: Region): Extraction {
    const [before, after] = [this.#segments, written].map((segments) => outside(segments, region));
    const same =
      before!.length === after!.length &&
      before!.every((one, i) => one.address === after![i]!.address && equalBytes(one.bytes, after![i]!.bytes));
    if (!same) {
      throw new CountersignError(
        "read-back-mismatch",
        `the written image differs from the original outside the region ${range(region.offset, region.length)}`,
      );
    }
    // PEM is found without being told where, as whoever reads the image later will find it.
    return extractFrom(written, this.encoding === "der" ? { offset: this.offset } : {});
  }

  #whole(length: number): number {
    return Math.ceil(length / this.#unit) * this.#unit;
  }

  /** Whoever reads the image later must find this chain and no other. */
  #refuseAmbiguity(leaf: Uint8Array): void {
    const others = this.#held.filter((found) => found !== this.here);
    if (others.length === 0) return;
    const leafIsDevice = parseCertificate(leaf).basicConstraints?.ca !== true;
    const other = others.find((found) => found.leafIsDevice || !leafIsDevice);
    if (other !== undefined) throw this.#holdsOther(other);
  }

  #holdsOther(other: FoundChain): CountersignError {
    return holdsOther(`the image holds another chain at ${hex(other.address)}`, other, other === this.here);
  }
}

/** @throws CountersignError `image-no-chain`, `image-chain-ambiguous` */
export function extractFrom(segments: readonly Segment[], { offset }: Layout = {}): Extraction {
  return chosenChain(chainsIn(segments), offset, () => derChainAt(segments, offset!));
}

/** @throws CountersignError `image-no-chain`, `image-chain-ambiguous` */
export function chosenChain(
  found: readonly FoundChain[],
  offset: number | undefined,
  derAt: () => FoundChain | undefined,
): Extraction {
  const chosen =
    offset === undefined ? deviceChain(found) : (found.find(({ address }) => address === offset) ?? derAt());
  if (chosen === undefined && found.length > 0 && offset === undefined) {
    throw new CountersignError(
      "image-chain-ambiguous",
      `the image holds certificates at ${found.map(({ address }) => hex(address)).join(", ")}, and which of them are ` +
        "the device's chain can't be told; give --offset to say so",
    );
  }
  if (chosen === undefined) {
    const where = offset === undefined ? "" : ` at ${hex(offset)}`;
    throw new CountersignError("image-no-chain", `the image holds no certificate chain${where}`);
  }
  const { address, bytes, encoding } = chosen;
  return { chainBytes: bytes.slice(), encoding, region: { offset: address, length: bytes.length } };
}

/** Pieces of memory in any order, made into a sorted list. `twice` is called for an address that two of them write. */
export function toSegments(pieces: readonly Segment[], twice: (piece: number, address: number) => Error): Segment[] {
  let order: Uint32Array | undefined;
  for (let i = 1; i < pieces.length && order === undefined; i++) {
    if (pieces[i]!.address < pieces[i - 1]!.address) {
      order = Uint32Array.from(pieces.keys()).sort((a, b) => pieces[a]!.address - pieces[b]!.address || a - b);
    }
  }
  const at = (i: number): Segment => pieces[order === undefined ? i : order[i]!]!;
  const segments: Segment[] = [];
  for (let first = 0; first < pieces.length;) {
    const { address } = at(first);
    let end = address + at(first).bytes.length;
    let last = first;
    for (; last + 1 < pieces.length && at(last + 1).address <= end; last++) {
      const next = at(last + 1);
      if (next.address < end && next.bytes.length > 0) throw twice(order?.[last + 1] ?? last + 1, next.address);
      end += next.bytes.length;
    }
    if (last === first) segments.push(at(first));
    else {
      const bytes = new Uint8Array(end - address);
      for (let i = first; i <= last; i++) bytes.set(at(i).bytes, at(i).address - address);
      segments.push({ address, bytes });
    }
    first = last + 1;
  }
  return segments.filter(({ bytes }) => bytes.length > 0);
}

function chainsIn(segments: readonly Segment[]): FoundChain[] {
  return segments.flatMap(({ bytes, address }) => findChains(bytes, address));
}

function derChainAt(segments: readonly Segment[], offset: number): FoundChain | undefined {
  const segment = segments.find(({ address, bytes }) => address <= offset && offset < address + bytes.length);
  return segment && decodeDerChain(segment.bytes.subarray(offset - segment.address), offset);
}

/** The first address in [from, to) that the image writes. */
function firstUsed(segments: readonly Segment[], from: number, to: number): number | undefined {
  const segment = segments.find(({ address, bytes }) => address < to && address + bytes.length > from);
  return segment === undefined || from >= to ? undefined : Math.max(segment.address, from);
}

/** What lies in memory outside the region. */
function outside(segments: readonly Segment[], region: Region): Segment[] {
  const end = region.offset + region.length;
  return segments
    .flatMap(({ address, bytes }) => [
      { address, bytes: bytes.subarray(0, Math.max(0, region.offset - address)) },
      { address: Math.max(address, end), bytes: bytes.subarray(Math.max(0, end - address)) },
    ])
    .filter(({ bytes }) => bytes.length > 0);
}
