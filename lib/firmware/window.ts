import type { Extraction, FirmwareTemplate, Injection, RangeReader, Region } from "./format.ts";

/** A part of an image as an image of its own. */
export function windowReader(reader: RangeReader, offset: number, size: number): RangeReader {
  return {
    size,
    read(at, length) {
      if (at < 0 || length < 0 || at + length > size) {
        throw new RangeError(`read of ${length} bytes at ${at} is outside a window of ${size} bytes`);
      }
      return reader.read(offset + at, length);
    },
  };
}

/** The template of a part as one of the whole image; its patches keep the part's size. */
export function windowTemplate(part: FirmwareTemplate, offset: number, size: number): FirmwareTemplate {
  return {
    async inject(chain) {
      const injection = await part.inject(chain);
      const patches = injection.patches.map((patch) => ({ ...patch, offset: offset + patch.offset }));
      return { ...injection, patches, region: shift(injection.region, offset) };
    },
    async readBack(written, injection: Injection) {
      const inner = { ...injection, region: shift(injection.region, -offset) };
      return windowExtraction(await part.readBack(windowReader(written, offset, size), inner), offset);
    },
  };
}

export function windowExtraction(extraction: Extraction, offset: number): Extraction {
  return { ...extraction, region: shift(extraction.region, offset) };
}

function shift(region: Region | null, by: number): Region | null {
  return region === null ? null : { offset: region.offset + by, length: region.length };
}
