import { equalBytes } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { parseCertificate } from "../pki/certificate.ts";
import { scanChains } from "./chain-scan.ts";
import {
  chainAtStart,
  checkEncoding,
  decodeDerChain,
  encodeChain,
  holdsOther,
  MAX_CHAIN_BYTES,
  type FoundChain,
} from "./chain.ts";
import type {
  ChainEncoding,
  Extraction,
  FirmwareFormat,
  FirmwareTemplate,
  Injection,
  Layout,
  RangeReader,
} from "./format.ts";
import { hex, range } from "./hexadecimal.ts";
import { chosenChain } from "./memory.ts";
import { readUpTo } from "./reader.ts";

/**
 * A raw flash image: byte n of the file is byte n of the flash. The chain takes the place of bytes that are blank (all
 * FF, as flash is erased, or all 00), inside the file or behind its end. Images may have any size: only the region's
 * surroundings are held, the rest is read through once.
 */

/** How far behind the file's end a chain may lie; what is between is filled with FF. */
const MAX_GAP = 16 << 20;
const ERASED = 0xff;
/** No flash is larger; also bounds what is read to look for chains. */
const MAX_BYTES = 4 * 2 ** 30;

export const raw: FirmwareFormat = {
  name: "raw",
  extension: "bin",
  summary: "raw flash image; --offset is the file offset of blank bytes (FF or 00), or lies behind the end",
  takes: ["offset", "length", "encoding"],

  async detect() {
    // Any file could be one.
    return false;
  },

  async open(reader, layout) {
    const { offset, length } = layout;
    if (offset === undefined) throw new CountersignError("usage", "a raw image needs the chain's place: give --offset");
    if (!Number.isSafeInteger(offset) || offset < 0) {
      throw new CountersignError("usage", `the offset must be a place in the file, not ${offset}`);
    }
    if (length !== undefined && (!Number.isSafeInteger(length) || length < 1)) {
      throw new CountersignError("usage", `the length must be 1 or more, not ${length}`);
    }
    const encoding = checkEncoding("raw", layout.encoding, ["pem-nul", "der"]);
    if (offset - reader.size > MAX_GAP) {
      throw new CountersignError(
        "image-region-missing",
        `the image ends at ${hex(reader.size)}, more than 16 MiB before the offset ${hex(offset)}; ` +
          "give an image of the whole flash",
        { details: { size: reader.size, offset } },
      );
    }
    checkSize(reader);
    const around = await readUpTo(reader, offset, length ?? MAX_CHAIN_BYTES);
    const held = await scanChains(reader);
    const here = held.find(({ address }) => address === offset) ?? decodeDerChain(around, offset);
    const template = new Template({ size: reader.size, layout, offset, encoding, around: around.slice(), held, here });
    template.checkBlank(length ?? 1);
    return template;
  },

  async extract(reader, { offset } = {}) {
    checkSize(reader);
    if (offset === undefined) return chosenChain(await scanChains(reader), undefined, () => undefined);
    return chainAt(await readUpTo(reader, offset, MAX_CHAIN_BYTES), offset);
  },
};

interface Place {
  /** bytes of the file */
  readonly size: number;
  readonly layout: Layout;
  readonly offset: number;
  readonly encoding: ChainEncoding;
  /** the file's bytes from `offset` on, as far as a chain may need them */
  readonly around: Uint8Array;
  readonly held: readonly FoundChain[];
  /** the chain that begins exactly at `offset` */
  readonly here: FoundChain | undefined;
}

class Template implements FirmwareTemplate {
  readonly #place: Place;
  /** what blank bytes are in this region */
  readonly #blank: number;

  constructor(place: Place) {
    this.#place = place;
    const first = place.around[place.here?.bytes.length ?? 0];
    this.#blank = first === 0 ? 0 : ERASED;
  }

  /** @throws CountersignError `image-region-overlap` when the region holds anything but blank bytes behind `here` */
  checkBlank(length: number): void {
    const { around, here, offset } = this.#place;
    const end = Math.min(length, around.length);
    for (let at = here?.bytes.length ?? 0; at < end; at++) {
      if (around[at] === this.#blank) continue;
      throw new CountersignError(
        "image-region-overlap",
        `the region ${range(offset, length)} isn't blank: ${hex(offset + at)} holds ${hex(around[at]!)}; choose bytes ` +
          "that are all FF or all 00",
        { details: { offset, length, used: offset + at } },
      );
    }
  }

  async inject(chain: readonly Uint8Array[]): Promise<Injection> {
    const { encoding, here, layout, offset, size } = this.#place;
    const chainBytes = encodeChain(chain, encoding);
    const same = here !== undefined && equalBytes(here.bytes, chainBytes);
    const length = Math.max(chainBytes.length, here?.bytes.length ?? 0);
    if (chainBytes.length > (layout.length ?? MAX_CHAIN_BYTES)) {
      throw new CountersignError(
        "image-region-too-small",
        `the chain has ${chainBytes.length} bytes, the region at ${hex(offset)} ${layout.length}; reserve more`,
        { details: { needed: chainBytes.length, available: layout.length ?? MAX_CHAIN_BYTES } },
      );
    }
    this.#refuseOther(chain[0]!, same);
    this.checkBlank(length);
    const gap = Math.max(0, offset - size);
    const insert = new Uint8Array(gap + length).fill(gap > 0 ? ERASED : this.#blank);
    insert.set(chainBytes, gap);
    const patch = { offset: offset - gap, remove: Math.max(0, Math.min(length, size - offset)), insert };
    return { patches: same ? [] : [patch], region: { offset, length }, encoding, chainBytes };
  }

  async readBack(written: RangeReader, injection: Injection): Promise<Extraction> {
    const { offset } = injection.region!;
    return chainAt(await readUpTo(written, offset, injection.region!.length), offset);
  }

  #refuseOther(leaf: Uint8Array, same: boolean): void {
    const { here, held, layout } = this.#place;
    const leafIsDevice = parseCertificate(leaf).basicConstraints?.ca !== true;
    const replaceable = same || layout.replace === true;
    const other =
      here !== undefined && !replaceable
        ? here
        : held.find((found) => found !== here && (found.leafIsDevice || !leafIsDevice));
    if (other === undefined) return;
    throw holdsOther(`the image holds another chain at ${hex(other.address)}`, other, other === here);
  }
}

function checkSize({ size }: RangeReader): void {
  if (size <= MAX_BYTES) return;
  throw new CountersignError("input-too-large", `the image has ${size} bytes; at most 4 GiB are taken`, {
    details: { size, limit: MAX_BYTES },
  });
}

/** The chain that `bytes` begins with. @throws CountersignError `image-no-chain` */
function chainAt(bytes: Uint8Array, offset: number): Extraction {
  return chosenChain([], offset, () => chainAtStart(bytes, offset));
}
