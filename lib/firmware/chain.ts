import { concatBytes, equalBytes, fromUtf8, utf8 } from "../domain/bytes.ts";
import { CountersignError, isCountersignError } from "../domain/errors.ts";
import { parseCertificate, type Certificate } from "../pki/certificate.ts";
import { sameName } from "../pki/name.ts";
import { pemDecode, pemEncode } from "../pki/pem.ts";
import type { ChainEncoding } from "./format.ts";

/** Chains as they lie in images: leaf first, PEM, one final NUL, which mbedTLS takes for the end of its input. */

export const MAX_CHAIN_CERTIFICATES = 10;
export const MAX_CHAIN_BYTES = 0xe000;

/** The bytes to inject. @throws CountersignError `certificate-invalid`, `input-too-large` */
export function encodeChain(chain: readonly Uint8Array[], encoding: ChainEncoding = "pem-nul"): Uint8Array {
  checkChainOrder(chain);
  const nul = encoding === "pem-nul" ? [Uint8Array.of(0)] : [];
  const bytes =
    encoding === "der"
      ? concatBytes(...chain)
      : concatBytes(...chain.map((der) => utf8(pemEncode("CERTIFICATE", der))), ...nul);
  if (bytes.length > MAX_CHAIN_BYTES) {
    throw new CountersignError(
      "input-too-large",
      `the chain has ${bytes.length} bytes as ${encoding}; an image takes at most ${MAX_CHAIN_BYTES}`,
    );
  }
  return bytes;
}

/**
 * Certificates in DER, leaf first, from the bytes of a region.
 * @throws CountersignError `image-no-chain` when they are no chain
 */
export function decodeChain(bytes: Uint8Array): { chain: Uint8Array[]; encoding: ChainEncoding } {
  if (bytes.length === 0 || bytes.length > MAX_CHAIN_BYTES) throw noChain("it is empty or too large");
  try {
    if (bytes[0] === 0x30) return { chain: splitDer(bytes), encoding: "der" };
    const terminated = bytes[bytes.length - 1] === 0;
    const text = fromUtf8(terminated ? bytes.subarray(0, -1) : bytes);
    const chain = pemDecode(text, "CERTIFICATE");
    for (const der of chain) parseCertificate(der);
    if (chain.length === 0) throw noChain("it holds no certificate");
    return { chain, encoding: terminated ? "pem-nul" : "pem" };
  } catch (cause) {
    if (isCountersignError(cause) && cause.code === "image-no-chain") throw cause;
    throw noChain("its bytes are neither PEM nor DER certificates", cause);
  }
}

/**
 * The encoding that a layout asks for, or the format's first.
 * @throws CountersignError `usage` for one that the format doesn't have
 */
export function checkEncoding(
  format: string,
  wanted: ChainEncoding | undefined,
  has: readonly [ChainEncoding, ...ChainEncoding[]],
): ChainEncoding {
  if (wanted === undefined) return has[0];
  if (has.includes(wanted)) return wanted;
  throw new CountersignError("usage", `${format} holds a chain as ${has.join(" or ")}, not as ${wanted}`);
}

/**
 * The concatenated DER certificates that `bytes` begins with, whatever follows; undefined where there are none, or where
 * what follows is another sequence that isn't whole: a damaged chain must not pass for a shorter one.
 */
export function decodeDerChain(bytes: Uint8Array, address: number): FoundChain | undefined {
  let end = 0;
  while (bytes[end] === 0x30 && end < MAX_CHAIN_BYTES) {
    const length = derLength(bytes, end);
    if (length === undefined || end + length > bytes.length) return undefined;
    end += length;
  }
  const chain = end === 0 ? undefined : tryChain(bytes.subarray(0, end));
  return chain && { address, bytes: bytes.subarray(0, end), freestanding: true, ...chain };
}

/** @throws CountersignError `certificate-invalid` unless each certificate names the next one as its issuer, by name and key */
export function checkChainOrder(chain: readonly Uint8Array[]): Certificate[] {
  if (chain.length === 0 || chain.length > MAX_CHAIN_CERTIFICATES) {
    throw new CountersignError(
      "certificate-invalid",
      `the chain has ${chain.length} certificates; give 1 to ${MAX_CHAIN_CERTIFICATES}, leaf first`,
    );
  }
  const certificates = chain.map((der) => parseCertificate(der));
  for (let i = 0; i + 1 < certificates.length; i++) {
    const [one, above] = [certificates[i]!, certificates[i + 1]!];
    const [aki, ski] = [one.aki?.keyIdentifier, above.ski];
    // A CA of the same name may have another key; no device would find its way from this leaf to the root.
    const otherKey = aki !== undefined && ski !== undefined && !equalBytes(aki, ski);
    if (otherKey || !sameName(one.issuer, above.subject)) {
      throw new CountersignError(
        "certificate-invalid",
        `certificate ${i + 1} of the chain wasn't issued by the one that follows it; order the chain leaf first`,
        { details: { certificate: i + 1 } },
      );
    }
  }
  return certificates;
}

/**
 * Guards against another device's chain: the leaf must hold the device's key, as its CSR does.
 * @param spki DER SubjectPublicKeyInfo of the device
 * @throws CountersignError `read-back-mismatch`, `certificate-invalid`
 */
export function checkChainFor(spki: Uint8Array, chain: readonly Uint8Array[]): void {
  const leaf = checkChainOrder(chain)[0]!;
  if (!equalBytes(leaf.spki, spki)) {
    throw new CountersignError(
      "read-back-mismatch",
      `the chain's leaf (${leaf.subject.cn ?? leaf.serial}) holds another key than the device: it is another device's chain`,
    );
  }
}

export interface FoundChain {
  /** of the first byte, in the scanned memory's addresses */
  readonly address: number;
  readonly bytes: Uint8Array;
  readonly encoding: ChainEncoding;
  /** leaf first */
  readonly chain: readonly Uint8Array[];
  /** false for what only CAs sign with: firmware often carries trust anchors of its own */
  readonly leafIsDevice: boolean;
  /** false directly behind other text: it may be what is left of a damaged chain */
  readonly freestanding: boolean;
}

const BEGIN = utf8("-----BEGIN CERTIFICATE-----");
const END = utf8("-----END CERTIFICATE-----");

/** A value that is a chain as a whole, or undefined. */
export function asChain(bytes: Uint8Array, address: number): FoundChain | undefined {
  const chain = tryChain(bytes);
  return chain && { address, bytes, freestanding: true, ...chain };
}

/** The chain that `bytes` begins with, PEM or DER. */
export function chainAtStart(bytes: Uint8Array, address: number): FoundChain | undefined {
  return findChains(bytes, address).find((found) => found.address === address) ?? decodeDerChain(bytes, address);
}

/**
 * What refuses an image that holds another chain.
 * @param where such as "the image holds another chain at 0x1000"
 * @param replaceable it lies where the new one goes
 */
export function holdsOther(where: string, other: FoundChain, replaceable: boolean): CountersignError {
  const cn = parseCertificate(other.chain[0]!).subject.cn ?? "a leaf without CN";
  return new CountersignError(
    "image-holds-other-chain",
    `${where} (${cn}); start from an image without one` +
      (replaceable ? ", or give --replace to put the new chain in its place" : ""),
    { details: { offset: other.address } },
  );
}

/** Every run of PEM certificates in one contiguous piece of memory; what doesn't parse as certificates is passed over. */
export function findChains(memory: Uint8Array, address: number): FoundChain[] {
  const found: FoundChain[] = [];
  for (let at = indexOf(memory, BEGIN, 0, memory.length); at >= 0;) {
    const { end, whole } = runOf(memory, at);
    if (whole) {
      const bytes = memory.subarray(at, memory[end] === 0 ? end + 1 : end);
      const parsed = tryChain(bytes);
      const freestanding = at === 0 || !isText(memory[at - 1]!);
      if (parsed !== undefined) found.push({ address: address + at, bytes, freestanding, ...parsed });
    }
    at = indexOf(memory, BEGIN, end, memory.length);
  }
  return found;
}

/**
 * The device's chain among all that were found: the only one whose leaf isn't a CA, or, where there is none of that
 * kind, the only one that stands by itself.
 */
export function deviceChain(found: readonly FoundChain[]): FoundChain | undefined {
  const devices = found.filter((candidate) => candidate.leafIsDevice);
  if (devices.length > 0) return devices.length === 1 ? devices[0] : undefined;
  return found.length === 1 && found[0]!.freestanding ? found[0] : undefined;
}

function tryChain(bytes: Uint8Array): Pick<FoundChain, "chain" | "encoding" | "leafIsDevice"> | undefined {
  try {
    const { chain, encoding } = decodeChain(bytes);
    const leaf = parseCertificate(chain[0]!);
    return { chain, encoding, leafIsDevice: leaf.basicConstraints?.ca !== true };
  } catch (error) {
    if (isCountersignError(error)) return undefined;
    throw error;
  }
}

/**
 * The PEM blocks that follow each other from `start`, up to `end`. Not `whole` when one of them isn't, or when they are
 * more than a chain has: what is left of a damaged chain must not pass for a shorter one. The search goes on at `end`,
 * so no byte is looked at more than a few times, whatever the image is made of.
 */
function runOf(memory: Uint8Array, start: number): { end: number; whole: boolean } {
  let at = start;
  while (startsWith(memory, BEGIN, at)) {
    const inside = at + BEGIN.length;
    const limit = Math.min(memory.length, at + MAX_CHAIN_BYTES);
    const inner = indexOf(memory, BEGIN, inside, limit);
    const close = indexOf(memory, END, inside, inner < 0 ? limit : inner);
    if (close < 0) return { end: inner < 0 ? inside : inner, whole: false };
    at = close + END.length;
    if (memory[at] === 0x0d && memory[at + 1] === 0x0a) at += 2;
    else if (memory[at] === 0x0a) at += 1;
  }
  return { end: at, whole: at - start <= MAX_CHAIN_BYTES };
}

function isText(byte: number): boolean {
  return (byte >= 0x20 && byte < 0x7f) || byte === 0x0a || byte === 0x0d || byte === 0x09;
}

function startsWith(memory: Uint8Array, pattern: Uint8Array, at: number): boolean {
  if (at + pattern.length > memory.length) return false;
  for (let i = 0; i < pattern.length; i++) if (memory[at + i] !== pattern[i]) return false;
  return true;
}

function indexOf(memory: Uint8Array, pattern: Uint8Array, from: number, end: number): number {
  for (let at = memory.indexOf(pattern[0]!, from); at >= 0 && at < end; at = memory.indexOf(pattern[0]!, at + 1)) {
    if (startsWith(memory, pattern, at) && at + pattern.length <= end) return at;
  }
  return -1;
}

/** Concatenated DER certificates. */
function splitDer(bytes: Uint8Array): Uint8Array[] {
  const chain: Uint8Array[] = [];
  for (let at = 0; at < bytes.length;) {
    const length = derLength(bytes, at);
    if (length === undefined) throw noChain("its DER certificates can't be told apart");
    if (at + length > bytes.length) throw noChain("its last DER certificate is cut off");
    const der = bytes.slice(at, at + length);
    parseCertificate(der);
    chain.push(der);
    at += length;
  }
  return chain;
}

/** Bytes of the DER sequence at `at`, its header included. */
function derLength(bytes: Uint8Array, at: number): number | undefined {
  const first = bytes[at + 1] ?? 0;
  const lengthBytes = first & 0x80 ? first & 0x7f : 0;
  if (bytes[at] !== 0x30 || lengthBytes > 3) return undefined;
  let length = lengthBytes === 0 ? first : 0;
  for (let i = 0; i < lengthBytes; i++) length = length * 256 + (bytes[at + 2 + i] ?? 0);
  return 2 + lengthBytes + length;
}

function noChain(why: string, cause?: unknown): CountersignError {
  return new CountersignError("image-no-chain", `the region holds no certificate chain: ${why}`, { cause });
}
