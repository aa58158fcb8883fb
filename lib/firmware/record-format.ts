import type { FirmwareFormat, Patch, RangeReader } from "./format.ts";
import { ChainPlace, extractFrom, type Segment } from "./memory.ts";
import { MAX_RECORDS_BYTES, startsWithRecord } from "./record-lines.ts";
import { readAll } from "./reader.ts";

/** What a format of lines with target addresses has of its own. */
export interface RecordFormat<Image extends { readonly segments: readonly Segment[] }> extends Pick<
  FirmwareFormat,
  "name" | "extension" | "summary"
> {
  /** whether `line` (no line ending) is a whole record with a right checksum */
  readonly isRecord: (line: Uint8Array) => boolean;
  /** @throws CountersignError `image-invalid` */
  readonly parse: (file: Uint8Array) => Image;
  /** the target memory alone, as strictly read: what a written image is read back by */
  readonly memory: (file: Uint8Array) => readonly Segment[];
  /** made once an image and layout: gives the changes that put a chain there */
  readonly writer: (image: Image, place: ChainPlace) => (chainBytes: Uint8Array) => Patch[];
}

/** A format of lines, with the chain at a target address. */
export function recordFormat<Image extends { readonly segments: readonly Segment[] }>(
  own: RecordFormat<Image>,
): FirmwareFormat {
  const { name, extension, summary, isRecord, parse, memory, writer } = own;
  const whole = (reader: RangeReader): Promise<Uint8Array> => readAll(reader, MAX_RECORDS_BYTES);
  return {
    ...{ name, extension, summary },
    takes: ["offset", "length", "encoding"],
    detect: (reader) => startsWithRecord(reader, isRecord),
    async open(reader, layout) {
      const image = parse(await whole(reader));
      const place = new ChainPlace(name, image.segments, layout);
      const patches = writer(image, place);
      return {
        async inject(chain) {
          const { same, ...plan } = place.plan(chain);
          return { ...plan, patches: same ? [] : patches(plan.chainBytes) };
        },
        readBack: async (written, injection) => place.readBack(memory(await whole(written)), injection.region!),
      };
    },
    extract: async (reader, layout) => extractFrom(memory(await whole(reader)), layout),
  };
}
