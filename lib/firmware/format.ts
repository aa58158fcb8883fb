import type { FirmwareFormatName } from "../records/receipt.ts";

/**
 * What every image format offers. A format reads ranges and answers with patches, so that an image never has to be in
 * memory as a whole and nothing here touches a file.
 */

/** Random access to an image's bytes. `read` returns exactly `length` bytes or throws; it may return a view. */
export interface RangeReader {
  /** bytes */
  readonly size: number;
  read(offset: number, length: number): Uint8Array | Promise<Uint8Array>;
}

/** Where a chain goes. What `offset` counts is the format's affair: bytes in the file, or a target address. */
export interface Layout {
  readonly offset?: number | undefined;
  /** bytes reserved for the chain; an injection that needs more is refused */
  readonly length?: number | undefined;
  /** put the chain in the place of another one; without it a region that holds another chain is refused */
  readonly replace?: boolean | undefined;
}

/** At `offset` of the original file, `remove` bytes give way to `insert`. A list is sorted and never overlaps. */
export interface Patch {
  readonly offset: number;
  readonly remove: number;
  readonly insert: Uint8Array;
}

/** The bytes that an injection may differ in. */
export interface Region {
  readonly offset: number;
  readonly length: number;
}

export type ChainEncoding = "pem-nul" | "pem" | "der";

export interface Injection {
  /** empty when the image holds exactly this chain already */
  readonly patches: readonly Patch[];
  readonly region: Region;
  readonly encoding: ChainEncoding;
  /** the chain as it lies in the image, a final NUL included */
  readonly chainBytes: Uint8Array;
}

export interface Extraction {
  readonly chainBytes: Uint8Array;
  readonly encoding: ChainEncoding;
  readonly region: Region;
}

/** An image, parsed once, with a layout that was found to fit it; any number of chains are then injected into copies. */
export interface FirmwareTemplate {
  /**
   * Plans one injection; changes nothing.
   * @param chain certificates in DER, leaf first
   * @throws CountersignError `image-region-too-small`, `image-region-overlap`, `image-holds-other-chain`
   */
  inject(chain: readonly Uint8Array[]): Injection;
  /**
   * Parses an image that was written and returns the chain found there, after comparing the content outside `region`
   * with the template's as a programmer would see it (target memory for HEX, bytes for a partition).
   * @throws CountersignError `read-back-mismatch` when something outside the region differs, or the errors of `extract`
   */
  readBack(written: RangeReader, region: Region): Promise<Extraction>;
}

export interface FirmwareFormat {
  readonly name: FirmwareFormatName;
  /** of image files, without the dot */
  readonly extension: string;
  /** one line for `--help` */
  readonly summary: string;
  /** Looks at a bounded part of the image; never throws for content. */
  detect(reader: RangeReader): Promise<boolean>;
  /**
   * Parses and checks the whole image and the layout against it.
   * @throws CountersignError `image-invalid`, `usage` for a layout that the format can't take, `image-region-overlap`
   */
  open(reader: RangeReader, layout: Layout): Promise<FirmwareTemplate>;
  /**
   * Finds the chain by itself; an offset settles it where an image holds several.
   * @throws CountersignError `image-invalid`, `image-no-chain`, `image-chain-ambiguous`
   */
  extract(reader: RangeReader, layout?: Layout): Promise<Extraction>;
}
