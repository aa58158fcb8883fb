import { concatBytes, equalBytes, utf8 } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { asChain, checkEncoding, encodeChain, type FoundChain } from "./chain.ts";
import type { ChainEncoding, Extraction, FirmwareTemplate, Injection, Layout, RangeReader } from "./format.ts";
import { hex } from "./hexadecimal.ts";
import { chosenChain } from "./memory.ts";
import {
  isNamespaceEntry,
  isNvsPage,
  namespaceIndex,
  NvsWriter,
  NVS_TYPE,
  PAGE,
  parseNvs,
  type NvsItem,
  type NvsPartition,
} from "./nvs-pages.ts";
import { patchesBetween } from "./patch.ts";
import { readAll, readUpTo } from "./reader.ts";

/** An NVS partition with the chain under one namespace and key, as a blob or a string. */

const MAX_BYTES = 4 << 20;
/** What a string's entries in one page hold. */
const MAX_STRING = 4000;
const MAX_NAMESPACES = 254;

/** What of a layout concerns an NVS partition. */
export const NVS_OPTIONS = ["namespace", "key", "type", "encoding"] as const;

export async function looksLikeNvs(reader: RangeReader): Promise<boolean> {
  return reader.size % PAGE === 0 && reader.size >= 3 * PAGE && isNvsPage(await readUpTo(reader, 0, PAGE));
}

/** @throws CountersignError as `FirmwareFormat.open` */
export async function openNvs(reader: RangeReader, layout: Layout): Promise<FirmwareTemplate> {
  const where = {
    namespace: name("namespace", layout.namespace),
    key: name("key", layout.key),
    type: layout.type ?? "blob",
    encoding: checkEncoding("esp-nvs", layout.encoding, ["pem-nul", "der"]),
    replace: layout.replace === true,
  };
  if (where.type === "string" && where.encoding === "der") {
    throw new CountersignError("usage", "an NVS string ends at the first NUL, so it holds PEM: leave the encoding out");
  }
  return new Template(await read(reader), where);
}

/** @throws CountersignError `image-invalid`, `image-encrypted`, `image-no-chain`, `image-chain-ambiguous` */
export async function extractFromNvs(reader: RangeReader, layout: Layout = {}): Promise<Extraction> {
  const { items } = await read(reader);
  const { namespace, key } = layout;
  const index = namespace === undefined ? undefined : namespaceIndex(items, namespace);
  const wanted = valuesOf(items).filter(
    (value) => (namespace === undefined || value.namespace === index) && (key === undefined || value.key === key),
  );
  const found = wanted.flatMap((value) => asChain(value.data, value.at) ?? []);
  const extraction = chosenChain(found, undefined, () => undefined);
  return { ...extraction, region: regionOf(wanted.find(({ at }) => at === extraction.region!.offset)!) };
}

interface Where {
  readonly namespace: string;
  readonly key: string;
  readonly type: "blob" | "string";
  readonly encoding: ChainEncoding;
  readonly replace: boolean;
}

/** A string or a whole blob, with its items. */
interface Value {
  readonly namespace: number;
  readonly key: string;
  readonly type: number;
  readonly at: number;
  readonly data: Uint8Array;
  readonly items: readonly NvsItem[];
}

class Template implements FirmwareTemplate {
  readonly #nvs: NvsPartition;
  readonly #where: Where;
  readonly #values: readonly Value[];
  readonly #index: number | undefined;
  /** every item that lies under the key already */
  readonly #held: readonly NvsItem[];
  readonly #chains: readonly FoundChain[];

  constructor(nvs: NvsPartition, where: Where) {
    this.#nvs = nvs;
    this.#where = where;
    this.#values = valuesOf(nvs.items);
    this.#index = namespaceIndex(nvs.items, where.namespace);
    this.#held = nvs.items.filter((item) => this.#isOurs(item));
    this.#chains = this.#values.flatMap((value) => asChain(value.data, value.at) ?? []);
  }

  async inject(chain: readonly Uint8Array[]): Promise<Injection> {
    const { encoding, key, namespace, type } = this.#where;
    const chainBytes = encodeChain(chain, encoding);
    if (type === "string" && chainBytes.length > MAX_STRING) {
      throw new CountersignError(
        "image-region-too-small",
        `the chain has ${chainBytes.length} bytes, an NVS string at most ${MAX_STRING}; let the layout ask for a blob`,
        { details: { needed: chainBytes.length, available: MAX_STRING } },
      );
    }
    const wanted = type === "string" ? NVS_TYPE.string : NVS_TYPE.index;
    const here = this.#values.find((value) => value.items.some((item) => this.#held.includes(item)));
    if (here !== undefined && here.type === wanted && equalBytes(here.data, chainBytes)) {
      return { patches: [], region: regionOf(here), encoding, chainBytes };
    }
    this.#refuseHeld(here);
    const writer = new NvsWriter(this.#nvs);
    for (const item of this.#held) writer.erase(item);
    const index = this.#index ?? freeNamespace(this.#nvs.items);
    if (this.#index === undefined) writer.addNamespace(namespace, index);
    if (type === "string") writer.addString(index, key, chainBytes);
    else writer.addBlob(index, key, chainBytes);
    const patches = writer.touched.flatMap((page) =>
      patchesBetween(this.#nvs.bytes.subarray(page, page + PAGE), writer.bytes.subarray(page, page + PAGE), page),
    );
    return { patches, region: writer.appended, encoding, chainBytes };
  }

  async readBack(written: RangeReader): Promise<Extraction> {
    const after = await read(written);
    const [a, b] = [this.#nvs.items, after.items].map((items) => items.filter((item) => !this.#isOurs(item, items)));
    const same = a!.length === b!.length && a!.every((item, i) => sameItem(item, b![i]!));
    if (!same) {
      throw new CountersignError("read-back-mismatch", "the written NVS partition holds other items than the original");
    }
    return await extractFromNvs(written);
  }

  /** What the layout's namespace and key name; the namespace's own entry is ours only where we add it. */
  #isOurs(item: NvsItem, items = this.#nvs.items): boolean {
    const { key, namespace } = this.#where;
    if (isNamespaceEntry(item)) return this.#index === undefined && item.key === namespace;
    return item.key === key && item.namespace === namespaceIndex(items, namespace);
  }

  #refuseHeld(here: Value | undefined): void {
    const { key, namespace, replace } = this.#where;
    const held = here && this.#chains.find(({ address }) => address === here.at);
    if (this.#held.length > 0 && held === undefined) {
      throw new CountersignError(
        "image-region-overlap",
        `the partition holds something that is no chain under ${namespace}/${key}; choose another key`,
        { details: { offset: this.#held[0]!.at } },
      );
    }
    const other =
      held !== undefined && !replace ? held : this.#chains.find((found) => found !== held && found.leafIsDevice);
    if (other === undefined) return;
    throw new CountersignError(
      "image-holds-other-chain",
      `the partition holds another chain at ${hex(other.address)}; start from a partition without one` +
        (other === held ? ", or give --replace to put the new chain in its place" : ""),
      { details: { offset: other.address } },
    );
  }
}

async function read(reader: RangeReader): Promise<NvsPartition> {
  return parseNvs(await readAll(reader, MAX_BYTES));
}

/** Strings and blobs; of a blob's chunks those that its index names. */
function valuesOf(items: readonly NvsItem[]): Value[] {
  return items.flatMap((item): Value[] => {
    const { at, data, key, namespace, type } = item;
    if (type === NVS_TYPE.string) return [{ namespace, key, type, at, data, items: [item] }];
    if (type !== NVS_TYPE.index) return [];
    const view = new DataView(data.buffer, data.byteOffset, data.length);
    const [size, count, first] = [view.getUint32(0, true), data[4]!, data[5]!];
    const chunks = Array.from({ length: count }, (_, i) =>
      items.findLast(
        (one) =>
          one.type === NVS_TYPE.chunk && one.namespace === namespace && one.key === key && one.chunk === first + i,
      ),
    ).filter((chunk) => chunk !== undefined);
    const whole = concatBytes(...chunks.map((chunk) => chunk.data));
    if (chunks.length !== count || whole.length !== size || count === 0) return [];
    return [{ namespace, key, type, at: chunks[0]!.at, data: whole, items: [...chunks, item] }];
  });
}

function regionOf({ items }: Value): { offset: number; length: number } {
  const from = Math.min(...items.map(({ at }) => at));
  return { offset: from, length: Math.max(...items.map(({ at, span }) => at + 32 * span)) - from };
}

function freeNamespace(items: readonly NvsItem[]): number {
  // A number without a name may have items all the same: they would come to life under ours.
  const used = new Set(items.map((item) => (isNamespaceEntry(item) ? item.data[0] : item.namespace)));
  for (let index = 1; index <= MAX_NAMESPACES; index++) if (!used.has(index)) return index;
  throw new CountersignError("image-region-too-small", "the NVS partition has no number left for another namespace");
}

function sameItem(a: NvsItem, b: NvsItem): boolean {
  return (
    a.at === b.at &&
    a.namespace === b.namespace &&
    a.type === b.type &&
    a.chunk === b.chunk &&
    a.key === b.key &&
    equalBytes(a.data, b.data)
  );
}

function name(what: string, value: string | undefined): string {
  if (value === undefined) {
    throw new CountersignError("usage", "NVS needs the chain's place: give --namespace and --key");
  }
  if (/^[\x21-\x7e]{1,15}$/.test(value) && utf8(value).length === value.length) return value;
  throw new CountersignError("usage", `an NVS ${what} has 1 to 15 printable ASCII characters`);
}
