import { equalBytes } from "../lib/domain/bytes.ts";
import { CountersignError } from "../lib/domain/errors.ts";
import type { SignatureAlgorithm, Signer } from "../lib/domain/signing.ts";
import { IMAGE_MAGIC_BYTES } from "../lib/firmware/mcuboot-image.ts";
import { IMAGE_KEY_PROOF } from "../lib/records/keyset.ts";
import type { TokenKey } from "./signer.ts";

/**
 * A key that bootloaders trust. It signs MCUboot images and its own proof of possession, told by their first bytes:
 * neither can be taken for a certificate, an act or a checkpoint, and nothing else passes.
 */
export class ImageKey implements Signer {
  readonly spki: Uint8Array;
  readonly algorithm: SignatureAlgorithm;
  readonly label: string;
  readonly #key: TokenKey;

  /** Use `Token.imageKey` or `Token.generateImageKey`. */
  constructor(key: TokenKey) {
    this.#key = key;
    this.spki = key.spki;
    this.algorithm = key.algorithm;
    this.label = key.label;
  }

  /** @throws CountersignError `unauthorized` for anything that is no image, and what `TokenKey.sign` throws */
  async sign(message: Uint8Array): Promise<Uint8Array> {
    // A copy: what was looked at is what is signed, whatever the caller does with its bytes meanwhile.
    const bytes = message.slice();
    if (![IMAGE_MAGIC_BYTES, IMAGE_KEY_PROOF].some((start) => equalBytes(bytes.subarray(0, start.length), start))) {
      throw new CountersignError("unauthorized", `key "${this.label}" signs MCUboot images only`, {
        details: { key: this.label },
      });
    }
    return this.#key.sign(bytes);
  }
}
