import { equalBytes } from "../../lib/domain/bytes.ts";
import { CountersignError, isCountersignError } from "../../lib/domain/errors.ts";
import { checkEncoding, decodeChain, deviceChain, encodeChain, MAX_CHAIN_BYTES } from "../../lib/firmware/chain.ts";
import type {
  ChainEncoding,
  Extraction,
  FirmwareFormat,
  FirmwareTemplate,
  Injection,
  Layout,
  Patch,
  RangeReader,
} from "../../lib/firmware/index.ts";
import { readUpTo } from "../../lib/firmware/reader.ts";
import { parseCertificate } from "../../lib/pki/certificate.ts";
import { withFileSystem } from "./ext4-client.ts";
import { PAGE, type Results } from "./ext4-protocol.ts";
import { checkSuperblock, readSuperblock } from "./ext4-superblock.ts";

/**
 * A file in an ext2, ext3 or ext4 partition, as gateways with Linux have them. Not in lib/: the file system is written by
 * e2fsprogs' own library, as WebAssembly on a thread, which needs Node. The partition isn't held: the library reads
 * ranges, and the pages that it writes become patches.
 */

const DEFAULT_MODE = 0o444;
/** What a chain takes, for the trial when no length is reserved. */
const USUAL_LENGTH = 8192;

export const ext4: FirmwareFormat = {
  name: "ext4",
  extension: "img",
  summary: "ext4 partition; --path is the chain's file in it, --mode its permissions (0444)",
  takes: ["path", "mode", "length", "encoding"],

  async detect(reader) {
    return (await readSuperblock(reader)) !== undefined;
  },

  async open(reader, layout) {
    const place: Place = {
      reader,
      path: checkedPath(layout.path),
      mode: checkedMode(layout.mode),
      encoding: checkEncoding("ext4", layout.encoding, ["pem", "pem-nul", "der"]),
      layout,
      clock: (await checkSuperblock(reader)).written,
    };
    const found = await look(place);
    const template = new Template(place, found);
    // A trial: what the file system has no room for is found out before the first device comes.
    await template.write(new Uint8Array(layout.length ?? USUAL_LENGTH));
    return template;
  },

  async extract(reader, layout = {}) {
    const { written: clock } = await checkSuperblock(reader);
    if (layout.path !== undefined) {
      const { file } = await look({ reader, path: checkedPath(layout.path), clock });
      return extraction(file, layout.path);
    }
    const work = { op: "search", limit: MAX_CHAIN_BYTES } as const;
    const { files, more } = (await withFileSystem(reader, clock, work)) ?? { files: [], more: false };
    if (more) {
      throw new CountersignError(
        "image-chain-ambiguous",
        "the partition holds too many files that may be chains to look into all of them; give --path to say which it is",
      );
    }
    const chains = files.flatMap(({ path, bytes }) => describe(path, bytes));
    const chosen = deviceChain(chains);
    if (chosen !== undefined) {
      return { chainBytes: chosen.bytes, encoding: chosen.encoding, region: null };
    }
    if (chains.length === 0)
      throw new CountersignError("image-no-chain", "no file of the partition is a certificate chain");
    throw new CountersignError(
      "image-chain-ambiguous",
      `the partition holds certificates in ${chains
        .slice(0, 5)
        .map(({ path }) => path)
        .join(", ")}, and which of them ` + "are the device's chain can't be told; give --path to say so",
    );
  },
};

interface Place {
  readonly reader: RangeReader;
  readonly path: string;
  readonly mode: number;
  readonly encoding: ChainEncoding;
  readonly layout: Layout;
  readonly clock: number;
}

class Template implements FirmwareTemplate {
  readonly #place: Place;
  readonly #found: Results["look"];

  /** @throws CountersignError `image-region-missing`, `image-region-overlap` */
  constructor(place: Place, found: Results["look"]) {
    this.#place = place;
    this.#found = found;
    const { path } = place;
    const folder = path.slice(0, path.lastIndexOf("/")) || "/";
    if (!isList(found.directory)) {
      const why =
        found.directory === "missing" ? `has no folder ${folder}` : `has something else than a folder at ${folder}`;
      throw new CountersignError("image-region-missing", `the partition ${why}; make it when the partition is built`);
    }
    if (found.file === "no-file") throw inUse(path, "is no regular file");
    if (found.file !== "missing" && this.#held() === undefined) throw inUse(path, "holds something else than a chain");
  }

  async inject(chain: readonly Uint8Array[]): Promise<Injection> {
    const { path, mode, encoding, layout } = this.#place;
    const chainBytes = encodeChain(chain, encoding);
    const { file } = this.#found;
    if (file !== "missing" && file !== "no-file" && file.bytes !== undefined) {
      const same = equalBytes(file.bytes, chainBytes);
      if (same && (file.mode & 0o7777) === mode) return { patches: [], region: null, encoding, chainBytes };
      if (!same && layout.replace !== true) {
        throw new CountersignError(
          "image-holds-other-chain",
          `the partition holds another chain in ${path} (${this.#held()}); start from one without it, or give --replace ` +
            "to put the new chain in its place",
        );
      }
    }
    if (layout.length !== undefined && chainBytes.length > layout.length) {
      throw tooSmall(chainBytes.length, `the layout reserves ${layout.length}`);
    }
    return { patches: await this.write(chainBytes), region: null, encoding, chainBytes };
  }

  async readBack(written: RangeReader): Promise<Extraction> {
    const { path, mode, clock } = this.#place;
    await checkSuperblock(written);
    const { directory, file } = await look({ reader: written, path, clock });
    const name = path.slice(path.lastIndexOf("/") + 1);
    const others = (names: Results["look"]["directory"]) =>
      isList(names) ? names.filter((one) => one !== name).sort() : [];
    const [before, after] = [others(this.#found.directory), others(directory)];
    const found = extraction(file, path);
    const sameMode = typeof file !== "string" && (file.mode & 0o7777) === mode;
    if (!sameMode || before.length !== after.length || before.some((one, i) => one !== after[i])) {
      throw new CountersignError(
        "read-back-mismatch",
        `the written partition differs from the original in more than the content of ${path}`,
      );
    }
    return found;
  }

  /** The patches that make the file hold these bytes. @throws CountersignError `image-region-too-small` */
  async write(bytes: Uint8Array): Promise<Patch[]> {
    const { reader, path, mode, clock } = this.#place;
    const written = await withFileSystem(reader, clock, { op: "write", path, mode, bytes });
    if (written === undefined) throw tooSmall(bytes.length, "the file system is full");
    const patches: Patch[] = [];
    for (const [page, insert] of written.pages) {
      const offset = page * PAGE;
      const before = await readUpTo(reader, offset, PAGE);
      if (!equalBytes(before, insert)) patches.push({ offset, remove: PAGE, insert });
    }
    return patches;
  }

  /** Whose chain the file holds, undefined when it is none. */
  #held(): string | undefined {
    const { file } = this.#found;
    if (typeof file === "string" || file.bytes === undefined) return undefined;
    const held = describe(this.#place.path, file.bytes)[0];
    return held && (parseCertificate(held.chain[0]!).subject.cn ?? "a leaf without CN");
  }
}

async function look({ reader, path, clock }: Pick<Place, "reader" | "path" | "clock">): Promise<Results["look"]> {
  const found = await withFileSystem(reader, clock, { op: "look", path, limit: MAX_CHAIN_BYTES });
  return found ?? { directory: "missing", file: "missing" };
}

function extraction(file: Results["look"]["file"], path: string): Extraction {
  if (typeof file === "string" || file.bytes === undefined) {
    throw new CountersignError("image-no-chain", `the partition has no file ${path} that could be a chain`);
  }
  return { chainBytes: file.bytes, encoding: decodeChain(file.bytes).encoding, region: null };
}

/** The whole file as a chain, and nothing when it isn't one. */
function describe(path: string, bytes: Uint8Array) {
  try {
    const { chain, encoding } = decodeChain(bytes);
    const leafIsDevice = parseCertificate(chain[0]!).basicConstraints?.ca !== true;
    return [{ path, address: 0, bytes, chain, encoding, leafIsDevice, freestanding: true }];
  } catch (error) {
    if (isCountersignError(error)) return [];
    throw error;
  }
}

function isList(names: Results["look"]["directory"]): names is readonly string[] {
  return typeof names !== "string";
}

function checkedPath(path: string | undefined): string {
  const parts = path?.split("/").slice(1) ?? [];
  const plain =
    parts.length > 0 &&
    parts.every((part) => part !== "" && part !== "." && part !== ".." && Buffer.byteLength(part) <= 255);
  // eslint-disable-next-line no-control-regex -- names with control characters are nobody's
  if (
    path !== undefined &&
    path.startsWith("/") &&
    path.length <= 1024 &&
    plain &&
    /^[^\u0000-\u001f\u007f]+$/.test(path)
  ) {
    return path;
  }
  throw new CountersignError(
    "usage",
    "an ext4 image needs the chain's file: give --path, absolute and without . or ..",
  );
}

function checkedMode(mode = DEFAULT_MODE): number {
  if (Number.isInteger(mode) && mode >= 0o400 && mode <= 0o777) return mode;
  throw new CountersignError("usage", "the mode is three octal digits that let the owner read, such as 0444");
}

function inUse(path: string, why: string): CountersignError {
  return new CountersignError("image-region-overlap", `${path} of the partition ${why}; choose another --path`);
}

function tooSmall(needed: number, why: string): CountersignError {
  return new CountersignError(
    "image-region-too-small",
    `the chain has ${needed} bytes, and ${why}; build the partition larger or shorten the chain`,
    { details: { needed } },
  );
}
