import {
  applyPatches,
  bytesReader,
  checkWritten,
  type Extraction,
  type FirmwareFormat,
  type Layout,
} from "../../lib/firmware/index.ts";

/** The image that holds the chain, read back and judged as the line judges it. */
export async function injected(
  format: FirmwareFormat,
  image: Uint8Array,
  chain: readonly Uint8Array[],
  layout: Layout,
): Promise<Uint8Array> {
  const template = await format.open(bytesReader(image), layout);
  const injection = await template.inject(chain);
  const out = applyPatches(image, injection.patches);
  await checkWritten(template, bytesReader(image), bytesReader(out), injection);
  return out;
}

export async function extracted(format: FirmwareFormat, image: Uint8Array, layout?: Layout): Promise<Extraction> {
  return await format.extract(bytesReader(image), layout);
}

/** Offsets at which two images of the same size differ. */
export function differences(a: Uint8Array, b: Uint8Array): number[] {
  if (a.length !== b.length) throw new Error(`${a.length} and ${b.length} bytes`);
  return [...a.keys()].filter((at) => a[at] !== b[at]);
}
