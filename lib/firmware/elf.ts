import { equalBytes } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { chainAtStart, checkEncoding, encodeChain, holdsOther, MAX_CHAIN_BYTES, type FoundChain } from "./chain.ts";
import {
  ET_DYN,
  ET_EXEC,
  hasElfMagic,
  readElf,
  SHF_ALLOC,
  SHF_COMPRESSED,
  SHF_EXECINSTR,
  SHT_NOBITS,
  SHT_NULL,
  SHT_PROGBITS,
  type Elf,
  type Section,
} from "./elf-sections.ts";
import type {
  ChainEncoding,
  Extraction,
  FirmwareFormat,
  FirmwareTemplate,
  Injection,
  Layout,
  RangeReader,
} from "./format.ts";
import { hex } from "./hexadecimal.ts";
import { readUpTo } from "./reader.ts";

/**
 * ELF with the chain in a section that the firmware's linker script reserves. Only the section's bytes are changed, in
 * place: a section that is added afterwards lies in no segment and is never loaded, and a larger one runs into what
 * follows.
 */

const DEFAULT_SECTION = ".countersign";

export const elf: FirmwareFormat = {
  name: "elf",
  extension: "elf",
  summary: "ELF; --section is one that the linker script reserves, blank and loaded (.countersign)",
  takes: ["section", "length", "encoding"],

  async detect(reader) {
    return hasElfMagic(await readUpTo(reader, 0, 4));
  },

  async open(reader, layout) {
    const encoding = checkEncoding("elf", layout.encoding, ["pem-nul", "der"]);
    const section = reserved(await readElf(reader), layout.section);
    if (section.offset + section.size > reader.size) throw cutOff(section);
    if (layout.length !== undefined && layout.length > section.size) {
      throw tooSmall(layout.length, section, "the layout asks for");
    }
    const bytes = (await readUpTo(reader, section.offset, Math.min(section.size, MAX_CHAIN_BYTES))).slice();
    return new Template({ section, bytes, encoding, layout });
  },

  async extract(reader, layout = {}) {
    return await extractFrom(reader, layout.section);
  },
};

interface Place {
  readonly section: Section;
  /** its content, as far as a chain may need it */
  readonly bytes: Uint8Array;
  readonly encoding: ChainEncoding;
  readonly layout: Layout;
}

class Template implements FirmwareTemplate {
  readonly #place: Place;
  readonly #here: FoundChain | undefined;
  readonly #blank: number;

  /** @throws CountersignError `image-region-overlap` when the section holds anything but a chain and blank bytes */
  constructor(place: Place) {
    this.#place = place;
    const { bytes, section } = place;
    this.#here = chainAtStart(bytes, section.offset);
    const from = this.#here?.bytes.length ?? 0;
    this.#blank = bytes[from] === 0xff ? 0xff : 0;
    const used = bytes.subarray(from).findIndex((byte) => byte !== this.#blank);
    if (used < 0) return;
    throw new CountersignError(
      "image-region-overlap",
      `the section ${section.name} isn't blank: its byte ${hex(from + used)} is in use; reserve one of its own, all FF or 00`,
      { details: { offset: section.offset + from + used } },
    );
  }

  async inject(chain: readonly Uint8Array[]): Promise<Injection> {
    const { section, encoding, layout } = this.#place;
    const chainBytes = encodeChain(chain, encoding);
    const here = this.#here;
    const length = Math.max(chainBytes.length, here?.bytes.length ?? 0);
    const region = { offset: section.offset, length };
    if (here !== undefined && equalBytes(here.bytes, chainBytes)) return { patches: [], region, encoding, chainBytes };
    if (here !== undefined && layout.replace !== true) {
      throw holdsOther(`the section ${section.name} holds another chain`, here, true);
    }
    if (chainBytes.length > section.size) throw tooSmall(chainBytes.length, section, "the chain has");
    if (layout.length !== undefined && chainBytes.length > layout.length) {
      throw tooSmall(chainBytes.length, { ...section, size: layout.length }, "the chain has");
    }
    const insert = new Uint8Array(length).fill(this.#blank);
    insert.set(chainBytes);
    return { patches: [{ offset: section.offset, remove: length, insert }], region, encoding, chainBytes };
  }

  async readBack(written: RangeReader): Promise<Extraction> {
    return await extractFrom(written, this.#place.section.name);
  }
}

/**
 * The section, if a loader puts it in memory as it is and nothing else claims its bytes.
 * @throws CountersignError `image-region-missing`, `image-region-overlap`
 */
function reserved(image: Elf, name = DEFAULT_SECTION): Section {
  const named = image.sections.filter((section) => section.name === name);
  const section = named[0];
  if (section === undefined || named.length > 1) {
    throw missing(name, section === undefined ? "the image has none" : `the image has ${named.length} of them`);
  }
  if (image.type !== ET_EXEC && image.type !== ET_DYN) {
    throw missing(name, "the file isn't linked yet (an object file, or a core)");
  }
  if (section.type !== SHT_PROGBITS) throw missing(name, "it has no bytes in the file (NOBITS); give it content");
  if ((section.flags & SHF_ALLOC) === 0) throw missing(name, "it isn't loaded (no ALLOC flag)");
  if ((section.flags & SHF_COMPRESSED) !== 0) throw missing(name, "it is compressed");
  if ((section.flags & SHF_EXECINSTR) !== 0) throw overlap(name, "it holds code");
  const end = section.offset + section.size;
  const segments = image.segments.filter(({ offset, fileSize }) => offset < end && offset + fileSize > section.offset);
  const segment = segments[0];
  if (
    segment === undefined ||
    section.offset < segment.offset ||
    end > segment.offset + segment.fileSize ||
    section.address - segment.address !== BigInt(section.offset - segment.offset)
  ) {
    throw missing(name, "no segment loads it whole: have the linker place it, objcopy --add-section doesn't");
  }
  if (segments.length > 1) throw overlap(name, "several segments load its bytes");
  for (const other of image.sections) {
    if (other === section || other.type === SHT_NOBITS || other.type === SHT_NULL) continue;
    if (other.offset < end && other.offset + other.size > section.offset)
      throw overlap(name, `${other.name} lies in it`);
  }
  if (image.tables.some(({ offset, size }) => offset < end && offset + size > section.offset)) {
    throw overlap(name, "the file's own headers lie in it");
  }
  return section;
}

async function extractFrom(reader: RangeReader, name: string | undefined): Promise<Extraction> {
  const section = reserved(await readElf(reader), name);
  if (section.offset + section.size > reader.size) throw cutOff(section);
  const bytes = await readUpTo(reader, section.offset, Math.min(section.size, MAX_CHAIN_BYTES));
  const found = chainAtStart(bytes, section.offset);
  if (found === undefined) {
    throw new CountersignError("image-no-chain", `the section ${section.name} doesn't begin with a certificate chain`);
  }
  return {
    chainBytes: found.bytes.slice(),
    encoding: found.encoding,
    region: { offset: section.offset, length: found.bytes.length },
  };
}

function missing(name: string, why: string): CountersignError {
  return new CountersignError("image-region-missing", `the section ${name} can't take a chain: ${why}`);
}

function overlap(name: string, why: string): CountersignError {
  return new CountersignError("image-region-overlap", `the section ${name} can't take a chain: ${why}`);
}

function cutOff(section: Section): CountersignError {
  return new CountersignError("image-invalid", `the image is cut off inside its section ${section.name}`);
}

function tooSmall(needed: number, section: Pick<Section, "name" | "size">, what: string): CountersignError {
  return new CountersignError(
    "image-region-too-small",
    `${what} ${needed} bytes, the section ${section.name} ${section.size}; reserve more in the linker script`,
    { details: { needed, available: section.size } },
  );
}
