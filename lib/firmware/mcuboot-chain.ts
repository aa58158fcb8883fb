import { CountersignError } from "../domain/errors.ts";
import { parseCertificate } from "../pki/certificate.ts";
import { decodeChain } from "./chain.ts";
import type { Extraction, Region } from "./format.ts";
import { hex } from "./hexadecimal.ts";
import type { McubootImage } from "./mcuboot-image.ts";

/** Chains in the protected TLVs of an MCUboot image. */

const DEFAULT_TAG = 0xa1;

/** @throws CountersignError `usage` for a type that isn't a vendor's */
export function checkedTag(tag = DEFAULT_TAG): number {
  if (Number.isInteger(tag) && tag >= 0xa0 && tag <= 0xfffe && (tag & 0xff) >= 0xa0 && (tag & 0xff) !== 0xff)
    return tag;
  throw new CountersignError(
    "usage",
    "a vendor's TLV type has a low byte from 0xA0 to 0xFE, such as 0xA1: correct --tag",
  );
}

/** @throws CountersignError `image-no-chain`, `image-chain-ambiguous` */
export function extractFrom(image: McubootImage, tag: number | undefined): Extraction {
  const found = image.protectedTlvs.flatMap(({ type, value }) => {
    if (tag === undefined ? (type & 0xff) < 0xa0 : type !== tag) return [];
    try {
      return [{ type, value, encoding: decodeChain(value).encoding }];
    } catch (cause) {
      if (tag !== undefined) throw cause;
      return [];
    }
  });
  if (found.length > 1) {
    throw new CountersignError(
      "image-chain-ambiguous",
      `the image holds chains in the TLVs ${found.map(({ type }) => hex(type)).join(", ")}; give --tag`,
    );
  }
  const chain = found[0];
  if (chain === undefined) {
    throw new CountersignError("image-no-chain", "the image's protected TLVs hold no certificate chain");
  }
  return { chainBytes: chain.value.slice(), encoding: chain.encoding, region: areaOf(image) };
}

/** What an injection may differ in: all TLVs. The header's count of the protected ones differs too. */
export function areaOf(image: McubootImage): Region {
  return { offset: image.body.length, length: image.end - image.body.length };
}

/** @throws CountersignError `image-holds-other-chain`, `image-region-overlap` */
export function refuseOthers(image: McubootImage, tag: number, replace: boolean): void {
  for (const { type, value } of image.protectedTlvs) {
    const here = type === tag;
    const leaf = (type & 0xff) < 0xa0 ? undefined : leafOf(value);
    if (here && leaf === undefined) {
      throw new CountersignError(
        "image-region-overlap",
        `the image's TLV ${hex(type)} holds something else than a chain; choose another --tag`,
      );
    }
    if (leaf === undefined || (here && replace)) continue;
    throw new CountersignError(
      "image-holds-other-chain",
      `the image's TLV ${hex(type)} holds another chain (${leaf}); start from an image without it` +
        (here ? ", or give --replace to put the new chain in its place" : ""),
    );
  }
}

/** Whose chain the bytes are, undefined when they are none. */
function leafOf(value: Uint8Array): string | undefined {
  try {
    return parseCertificate(decodeChain(value).chain[0]!).subject.cn ?? "a leaf without CN";
  } catch {
    return undefined;
  }
}
