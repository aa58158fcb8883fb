import { concatBytes, equalBytes } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { sha256 } from "../domain/hash.ts";
import type { Signer } from "../domain/signing.ts";
import { withSigner } from "./boot-record.ts";
import { encodeChain } from "./chain.ts";
import type { Extraction, FirmwareFormat, FirmwareTemplate, Injection, Layout, Patch, RangeReader } from "./format.ts";
import {
  areaSize,
  encodeProtected,
  encodeUnprotected,
  HEADER_SIZE,
  isTlvInfo,
  looksLikeMcuboot,
  parseMcuboot,
  PROTECT_SIZE_AT,
  TLV,
  type McubootImage,
  type Tlv,
} from "./mcuboot-image.ts";
import { areaOf, checkedTag, extractFrom, refuseOthers } from "./mcuboot-chain.ts";
import { checkRoom, ERASED, keptTlvs, refuseUnsignable, trailerOf } from "./mcuboot-slot.ts";
import { readAll, readUpTo } from "./reader.ts";

/**
 * MCUboot with the chain in a protected TLV, so that it is hashed and signed with the firmware: the image is signed
 * again by the image-signing key. Never an unprotected TLV: a bootloader refuses those of a vendor and finds nothing to
 * boot. What the image was protected by (security counter, dependencies, boot record) stays.
 */

/** Larger than any slot of a microcontroller's external flash. */
const MAX_IMAGE_BYTES = 32 << 20;

export const mcuboot: FirmwareFormat = {
  name: "mcuboot",
  extension: "bin",
  summary: "MCUboot image, signed again; --length is the slot's size, --tag the protected TLV's type (0xA1)",
  takes: ["length", "tag", "encoding"],
  signs: true,
  warning:
    "The chain lies in the image's slot: the next over-the-air image for the whole fleet overwrites it. Inject each " +
    "device's chain into every update, or keep the chain in a partition of its own.",

  async detect(reader) {
    const header = looksLikeMcuboot(await readUpTo(reader, 0, HEADER_SIZE));
    return header !== undefined && isTlvInfo(await readUpTo(reader, header.tlvAt, 4));
  },

  async open(reader, layout, signer) {
    const tag = checkedTag(layout.tag);
    const image = parseMcuboot(await readAll(reader, MAX_IMAGE_BYTES));
    refuseUnsignable(image, tag);
    if (signer !== undefined && signer.algorithm !== "ecdsa-p256-sha256") {
      throw new CountersignError(
        "key-unsupported",
        `MCUboot images are signed with P-256 here, not ${signer.algorithm}`,
      );
    }
    checkRoom(image, layout.length, []);
    return new Template(image, { ...layout, tag }, signer);
  },

  async extract(reader, layout = {}) {
    const image = parseMcuboot(await readAll(reader, MAX_IMAGE_BYTES));
    return extractFrom(image, layout.tag === undefined ? undefined : checkedTag(layout.tag));
  },
};

class Template implements FirmwareTemplate {
  readonly #image: McubootImage;
  readonly #layout: Layout & { readonly tag: number };
  readonly #signer: Signer | undefined;

  constructor(image: McubootImage, layout: Layout & { readonly tag: number }, signer: Signer | undefined) {
    this.#image = image;
    this.#layout = layout;
    this.#signer = signer;
  }

  async inject(chain: readonly Uint8Array[]): Promise<Injection> {
    const { encoding = "der", tag } = this.#layout;
    const chainBytes = encodeChain(chain, encoding);
    const signer = this.#signer;
    const held = this.#image.protectedTlvs.find(({ type }) => type === tag);
    const same = held !== undefined && equalBytes(held.value, chainBytes);
    if (same && (signer === undefined || this.#isSignedBy(signer))) {
      return { patches: [], region: areaOf(this.#image), encoding, chainBytes };
    }
    if (!same) refuseOthers(this.#image, tag, this.#layout.replace === true);
    if (signer === undefined) {
      throw new CountersignError(
        "usage",
        "an MCUboot image is signed again by a site's image-signing key: say whose with --site ID",
      );
    }
    const signerId = sha256(signer.spki);
    const protectedTlvs = this.#protected({ type: tag, value: chainBytes }, signerId);
    checkRoom(this.#image, this.#layout.length, protectedTlvs);

    const covered = concatBytes(this.#header(protectedTlvs), encodeProtected(protectedTlvs));
    const signature = await signer.sign(covered);
    const tlvs: Tlv[] = [
      { type: TLV.sha256, value: sha256(covered) },
      this.#keyTlv(signer, signerId),
      { type: TLV.ecdsa, value: signature },
      ...keptTlvs(this.#image),
    ];
    const area = concatBytes(covered.subarray(this.#image.body.length), encodeUnprotected(tlvs));
    return {
      patches: this.#patches(covered, area),
      region: { offset: this.#image.body.length, length: area.length },
      encoding,
      chainBytes,
    };
  }

  async readBack(written: RangeReader, injection: Injection): Promise<Extraction> {
    const bytes = await readAll(written, MAX_IMAGE_BYTES);
    // Parsing checks the digest over header, payload and protected TLVs.
    const image = parseMcuboot(bytes);
    const { body } = this.#image;
    const others = (tlvs: readonly Tlv[]) =>
      tlvs.filter(({ type }) => type !== this.#layout.tag && type !== TLV.bootRecord);
    const signed = injection.patches.every(({ offset, insert }) =>
      equalBytes(bytes.subarray(offset, offset + insert.length), insert),
    );
    if (
      !signed ||
      !equalBytes(image.body.subarray(0, PROTECT_SIZE_AT), body.subarray(0, PROTECT_SIZE_AT)) ||
      !equalBytes(image.body.subarray(PROTECT_SIZE_AT + 2), body.subarray(PROTECT_SIZE_AT + 2)) ||
      !sameTlvs(others(image.protectedTlvs), others(this.#image.protectedTlvs)) ||
      !equalBytes(trailerOf(image), trailerOf(this.#image))
    ) {
      throw new CountersignError(
        "read-back-mismatch",
        "the written MCUboot image differs from the original in more than chain, signer and signature",
      );
    }
    return extractFrom(image, this.#layout.tag);
  }

  #isSignedBy(signer: Signer): boolean {
    const expected = this.#keyTlv(signer, sha256(signer.spki));
    return this.#image.tlvs.some(({ type, value }) => type === expected.type && equalBytes(value, expected.value));
  }

  /** Those of the image in their order, the signer's name brought up to date, the chain last. */
  #protected(chain: Tlv, signerId: Uint8Array): Tlv[] {
    const kept = this.#image.protectedTlvs
      .filter(({ type }) => type !== chain.type)
      .map((tlv) => (tlv.type === TLV.bootRecord ? { ...tlv, value: withSigner(tlv.value, signerId) } : tlv));
    return [...kept, chain];
  }

  #header(protectedTlvs: readonly Tlv[]): Uint8Array {
    // Not `slice`, which of a Buffer is a view: the template stays as it is.
    const body = new Uint8Array(this.#image.body);
    new DataView(body.buffer).setUint16(PROTECT_SIZE_AT, areaSize(protectedTlvs), true);
    return body;
  }

  /** A bootloader built for whole keys in the image gets the whole key. */
  #keyTlv(signer: Signer, signerId: Uint8Array): Tlv {
    const whole = this.#image.tlvs.some(({ type }) => type === TLV.publicKey);
    return whole ? { type: TLV.publicKey, value: signer.spki } : { type: TLV.keyHash, value: signerId };
  }

  /** The protected size in the header, and the TLVs; in a slot they take erased bytes or give them back. */
  #patches(covered: Uint8Array, area: Uint8Array): Patch[] {
    const { body, end, rest } = this.#image;
    const size = covered.slice(PROTECT_SIZE_AT, PROTECT_SIZE_AT + 2);
    const old = end - body.length;
    const padded = rest.length > 0;
    const insert = new Uint8Array(padded ? Math.max(area.length, old) : area.length).fill(ERASED);
    insert.set(area);
    return [
      { offset: PROTECT_SIZE_AT, remove: 2, insert: size },
      { offset: body.length, remove: padded ? insert.length : old, insert },
    ];
  }
}

function sameTlvs(a: readonly Tlv[], b: readonly Tlv[]): boolean {
  return (
    a.length === b.length && a.every(({ type, value }, i) => type === b[i]!.type && equalBytes(value, b[i]!.value))
  );
}
