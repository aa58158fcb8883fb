import { concatBytes, equalBytes } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { sha256 } from "../domain/hash.ts";
import type { Signer } from "../domain/signing.ts";
import { parseCertificate } from "../pki/certificate.ts";
import { withSigner } from "./boot-record.ts";
import { decodeChain, encodeChain } from "./chain.ts";
import type {
  Extraction,
  FirmwareFormat,
  FirmwareTemplate,
  Injection,
  Layout,
  Patch,
  RangeReader,
  Region,
} from "./format.ts";
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
import { readAll, readUpTo } from "./reader.ts";

/**
 * MCUboot with the chain in a protected TLV, so that it is hashed and signed with the firmware: the image is signed
 * again by the image-signing key. Never an unprotected TLV: a bootloader refuses those of a vendor and finds nothing to
 * boot. What the image was protected by (security counter, dependencies, boot record) stays.
 */

/** Larger than any slot of a microcontroller's external flash. */
const MAX_IMAGE_BYTES = 32 << 20;
const DEFAULT_TAG = 0xa1;
/** ECDSA-Sig-Value on P-256 has at most 72 bytes; a slot that fits the longest fits each. */
const LONGEST_SIGNATURE = 72;
/** MCUboot's trailer with its usual 128 sectors and 8-byte writes: swap status, flags, magic. */
const TRAILER_SIZE = 128 * 3 * 8 + 4 * 8 + 16;
const ERASED = 0xff;
/** RSA, other curves, Ed25519, pure signatures: their bootloader won't take the P-256 signature that we put instead. */
const OTHER_SIGNATURES = [0x20, 0x21, 0x23, 0x24, 0x25];
const OURS: readonly number[] = [TLV.keyHash, TLV.publicKey, TLV.sha256, TLV.ecdsa];

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
    const template = new Template(image, { ...layout, tag }, signer);
    template.checkRoom([]);
    return template;
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
    if (!same) this.#refuseOthers();
    if (signer === undefined) {
      throw new CountersignError(
        "usage",
        "an MCUboot image is signed again by a site's image-signing key: say whose with --site ID",
      );
    }
    const signerId = sha256(signer.spki);
    const protectedTlvs = this.#protected({ type: tag, value: chainBytes }, signerId);
    this.checkRoom(protectedTlvs);

    const covered = concatBytes(this.#header(protectedTlvs), encodeProtected(protectedTlvs));
    const signature = await signer.sign(covered);
    const tlvs: Tlv[] = [
      { type: TLV.sha256, value: sha256(covered) },
      this.#keyTlv(signer, signerId),
      { type: TLV.ecdsa, value: signature },
      ...this.#image.tlvs.filter(({ type }) => !OURS.includes(type)),
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
      !equalBytes(trailerOf(image.rest), trailerOf(this.#image.rest))
    ) {
      throw new CountersignError(
        "read-back-mismatch",
        "the written MCUboot image differs from the original in more than chain, signer and signature",
      );
    }
    return extractFrom(image, this.#layout.tag);
  }

  /** @throws CountersignError `image-region-too-small`, `image-region-overlap` */
  checkRoom(protectedTlvs: readonly Tlv[]): void {
    const { body, tlvs, rest, end } = this.#image;
    const protectedSize = protectedTlvs.length === 0 ? 0 : areaSize(protectedTlvs);
    const kept = tlvs.filter(({ type }) => !OURS.includes(type));
    const longest = [32, 91, LONGEST_SIGNATURE].map((length) => ({ type: 0, value: new Uint8Array(length) }));
    const needed = body.length + protectedSize + areaSize([...longest, ...kept]);
    const slot = rest.length > 0 ? end + rest.length : this.#layout.length;
    if (this.#layout.length !== undefined && end + rest.length > this.#layout.length) {
      throw tooSmall(end + rest.length, this.#layout.length, "the slot");
    }
    if (protectedSize > 0xffff) throw tooSmall(protectedSize, 0xffff, "the protected TLV area");
    if (slot === undefined) return;
    if (needed > slot - TRAILER_SIZE) throw tooSmall(needed, slot - TRAILER_SIZE, "the slot, its trailer left out,");
    const used = rest.subarray(0, Math.max(0, needed - end)).findIndex((byte) => byte !== ERASED);
    if (used >= 0) {
      throw new CountersignError(
        "image-region-overlap",
        `the slot holds something behind the image at ${end + used}; build it padded with FF only`,
        { details: { offset: end + used } },
      );
    }
  }

  #isSignedBy(signer: Signer): boolean {
    const expected = this.#keyTlv(signer, sha256(signer.spki));
    return this.#image.tlvs.some(({ type, value }) => type === expected.type && equalBytes(value, expected.value));
  }

  /** @throws CountersignError `image-holds-other-chain`, `image-region-overlap` */
  #refuseOthers(): void {
    for (const { type, value } of this.#image.protectedTlvs) {
      const here = type === this.#layout.tag;
      const leaf = (type & 0xff) < 0xa0 ? undefined : leafOf(value);
      if (here && leaf === undefined) {
        throw new CountersignError(
          "image-region-overlap",
          `the image's TLV ${hex(type)} holds something else than a chain; choose another --tag`,
        );
      }
      if (leaf === undefined || (here && this.#layout.replace === true)) continue;
      throw new CountersignError(
        "image-holds-other-chain",
        `the image's TLV ${hex(type)} holds another chain (${leaf}); start from an image without it` +
          (here ? ", or give --replace to put the new chain in its place" : ""),
      );
    }
  }

  /** Those of the image in their order, the signer's name brought up to date, the chain last. */
  #protected(chain: Tlv, signerId: Uint8Array): Tlv[] {
    const kept = this.#image.protectedTlvs
      .filter(({ type }) => type !== chain.type)
      .map((tlv) => (tlv.type === TLV.bootRecord ? { ...tlv, value: withSigner(tlv.value, signerId) } : tlv));
    return [...kept, chain];
  }

  #header(protectedTlvs: readonly Tlv[]): Uint8Array {
    const body = this.#image.body.slice();
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

/** @throws CountersignError `image-encrypted`, `image-invalid`, `key-unsupported` */
function refuseUnsignable(image: McubootImage, tag: number): void {
  if (image.encrypted) {
    throw new CountersignError(
      "image-encrypted",
      "the image is encrypted: what is signed is its plain text, which isn't here; inject before it is encrypted",
    );
  }
  if (image.compressed) {
    throw new CountersignError(
      "image-invalid",
      "the image is compressed, with a second signature inside; inject before",
    );
  }
  if (image.protectedTlvs.filter(({ type }) => type === tag).length > 1) {
    throw new CountersignError(
      "image-invalid",
      `the image has several protected TLVs ${hex(tag)}; choose another --tag`,
    );
  }
  const other = image.tlvs.find(({ type }) => OTHER_SIGNATURES.includes(type));
  const twice = image.tlvs.filter(({ type }) => type === TLV.ecdsa).length > 1;
  if (other === undefined && !twice) return;
  throw new CountersignError(
    "key-unsupported",
    (other === undefined ? "the image has several signatures" : `the image's signature is of type ${hex(other.type)}`) +
      ": its bootloader won't boot it with one ECDSA P-256 signature instead; build both for P-256",
  );
}

function extractFrom(image: McubootImage, tag: number | undefined): Extraction {
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
function areaOf(image: McubootImage): Region {
  return { offset: image.body.length, length: image.end - image.body.length };
}

/** From the first byte that isn't erased. */
function trailerOf(rest: Uint8Array): Uint8Array {
  const from = rest.findIndex((byte) => byte !== ERASED);
  return rest.subarray(from < 0 ? rest.length : from);
}

function sameTlvs(a: readonly Tlv[], b: readonly Tlv[]): boolean {
  return (
    a.length === b.length && a.every(({ type, value }, i) => type === b[i]!.type && equalBytes(value, b[i]!.value))
  );
}

function checkedTag(tag = DEFAULT_TAG): number {
  if (Number.isInteger(tag) && tag >= 0xa0 && tag <= 0xfffe && (tag & 0xff) >= 0xa0 && (tag & 0xff) !== 0xff)
    return tag;
  throw new CountersignError(
    "usage",
    "a vendor's TLV type has a low byte from 0xA0 to 0xFE, such as 0xA1: correct --tag",
  );
}

/** Whose chain the bytes are, undefined when they are none. */
function leafOf(value: Uint8Array): string | undefined {
  try {
    return parseCertificate(decodeChain(value).chain[0]!).subject.cn ?? "a leaf without CN";
  } catch {
    return undefined;
  }
}

function hex(value: number): string {
  return `0x${value.toString(16).toUpperCase()}`;
}

function tooSmall(needed: number, available: number, what: string): CountersignError {
  return new CountersignError(
    "image-region-too-small",
    `the image needs ${needed} bytes and ${what} has ${Math.max(0, available)}; shorten the chain or use a larger slot`,
    { details: { needed, available } },
  );
}
