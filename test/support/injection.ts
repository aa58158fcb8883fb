import { expect } from "vitest";
import type { Signer } from "../../lib/domain/signing.ts";
import {
  applyPatches,
  bytesReader,
  checkWritten,
  type Extraction,
  type FirmwareFormat,
  type Layout,
} from "../../lib/firmware/index.ts";
import { TestChains, type TestChain } from "./chains.ts";

/** Chains of 1 to 6 certificates for device-1 to device-6, and another device's. */
export async function deviceChains(): Promise<{ cas: TestChains; chains: TestChain[]; other: TestChain }> {
  const cas = await TestChains.create();
  const chains: TestChain[] = [];
  for (let length = 1; length <= 6; length++) chains.push(await cas.leaf(`device-${length}`, length));
  return { cas, chains, other: await cas.leaf("device-other", 3) };
}

/** What a typed refusal matches. */
export const refusal = (code: string): unknown => expect.objectContaining({ name: "CountersignError", code });

/** The image that holds the chain, read back and judged as the line judges it. */
export async function injected(
  format: FirmwareFormat,
  image: Uint8Array,
  chain: readonly Uint8Array[],
  layout: Layout,
  signer?: Signer,
): Promise<Uint8Array> {
  const template = await format.open(bytesReader(image), layout, signer);
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
