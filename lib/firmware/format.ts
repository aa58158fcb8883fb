import type { Signer } from "../domain/signing.ts";
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
  /** Fills `into`, or throws: for whoever reads through a large image piece by piece. */
  readInto?(offset: number, into: Uint8Array): Promise<void>;
}

/** Where a chain goes and how it lies there. A format says in `takes` what of this it understands. */
export interface Layout {
  /** bytes in the file, or a target address: the format's affair */
  readonly offset?: number | undefined;
  /** bytes reserved for the chain; an injection that needs more is refused */
  readonly length?: number | undefined;
  /** label of the partition, where the image has a table of them */
  readonly partition?: string | undefined;
  /** NVS */
  readonly namespace?: string | undefined;
  readonly key?: string | undefined;
  readonly type?: "blob" | "string" | undefined;
  /** absolute path in a file system, and the file's mode (0o444 unless said) */
  readonly path?: string | undefined;
  readonly mode?: number | undefined;
  /** type of the MCUboot TLV */
  readonly tag?: number | undefined;
  /** name of the ELF section */
  readonly section?: string | undefined;
  /** the format's own default unless said */
  readonly encoding?: ChainEncoding | undefined;
  /** put the chain in the place of another one; without it a region that holds another chain is refused */
  readonly replace?: boolean | undefined;
}

export type LayoutOption = Exclude<keyof Layout, "replace">;

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
  /** null where the chain has no fixed place (a file in a file system) */
  readonly region: Region | null;
  readonly encoding: ChainEncoding;
  /** the chain as it lies in the image, a final NUL included */
  readonly chainBytes: Uint8Array;
}

export interface Extraction {
  readonly chainBytes: Uint8Array;
  readonly encoding: ChainEncoding;
  readonly region: Region | null;
}

/** An image, parsed once, with a layout that was found to fit it; any number of chains are then injected into copies. */
export interface FirmwareTemplate {
  /**
   * Plans one injection; changes nothing.
   * @param chain certificates in DER, leaf first
   * @throws CountersignError `image-region-too-small`, `image-region-overlap`, `image-holds-other-chain`, and the
   *   signer's where the image is signed again
   */
  inject(chain: readonly Uint8Array[]): Promise<Injection>;
  /**
   * Parses an image that was written and returns the chain found there, after comparing what else a programmer would
   * see of it with the template (target memory for HEX, bytes for a partition, files of a file system). `checkWritten`
   * has compared all bytes outside the patches by then.
   * @throws CountersignError `read-back-mismatch` when something but the chain differs, or the errors of `extract`
   */
  readBack(written: RangeReader, injection: Injection): Promise<Extraction>;
}

export interface FirmwareFormat {
  readonly name: FirmwareFormatName;
  /** of image files, without the dot */
  readonly extension: string;
  /** one line for `--help` */
  readonly summary: string;
  /** what of a layout it understands; `checkLayout` refuses the rest */
  readonly takes: readonly LayoutOption[];
  /** one sentence that whoever chooses this format has to know; shown with every injection and every lot */
  readonly warning?: string;
  /** the image is signed again: injecting needs the signer */
  readonly signs?: boolean;
  /** Looks at a bounded part of the image; never throws for content. */
  detect(reader: RangeReader): Promise<boolean>;
  /**
   * Parses and checks the whole image and the layout against it. The reader stays open for as long as the template is
   * used; what may be large (a raw image) is read in pieces and not kept.
   * @param signer for formats that sign the image again
   * @throws CountersignError `image-invalid`, `usage` for a layout that the format can't take, `image-region-overlap`
   */
  open(reader: RangeReader, layout: Layout, signer?: Signer): Promise<FirmwareTemplate>;
  /**
   * Finds the chain by itself; an offset settles it where an image holds several.
   * @throws CountersignError `image-invalid`, `image-no-chain`, `image-chain-ambiguous`
   */
  extract(reader: RangeReader, layout?: Layout): Promise<Extraction>;
}
