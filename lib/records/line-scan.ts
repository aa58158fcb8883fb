import { fromUtf8, utf8 } from "../domain/bytes.ts";
import { LOT_ID, PARTY_ID } from "../domain/ids.ts";
import { origin, profileRef, timestamp, MAX_SHOWN_CERTIFICATE } from "./primitives.ts";

/**
 * Line records as a follower of a ledger needs them: a pass over the bytes, which makes no object of what nobody asks for.
 * Only what is a valid record to the last byte passes; everything else is `readEntry`'s to judge. So this file decides how
 * fast a record is read, never what a valid one is; tests hold it to what `readEntry` says.
 */
export interface LineScan {
  readonly type: "built" | "certified" | "installed";
  readonly origin: string;
  readonly party: string;
  readonly lot: string;
  readonly slot: number;
  /** of a certified one */
  readonly purpose?: "initial" | "renewal";
  /** canonical base64 */
  readonly certificate?: string;
}

/** Undefined for whatever isn't such a record as one writes it. */
export function scanLine(entry: Uint8Array): LineScan | undefined {
  if (entry.length > 65_535) return undefined;
  try {
    return new Scanner(entry).record();
  } catch (error) {
    if (error === UNFIT) return undefined;
    throw error;
  }
}

const UNFIT = new Error("left to readEntry");

/** Values that every record of a batch repeats: what was found good is compared, anything else held against its schema. */
interface Repeated {
  readonly fits: (text: string) => boolean;
  bytes: Uint8Array;
  text: string;
}
const repeated = (fits: (text: string) => boolean): Repeated => ({ fits, bytes: new Uint8Array(0), text: "" });
const bySchema = (schema: { safeParse(value: unknown): { success: boolean } }) =>
  repeated((text) => schema.safeParse(text).success);
const byPattern = (pattern: RegExp) => repeated((text) => pattern.test(text));

const PARTY = byPattern(PARTY_ID);
const LOT = byPattern(LOT_ID);
/** A record names its own ledger, its grant's and those of acts before: each place has its own. */
const ORIGIN = bySchema(origin);
const GRANT_ORIGIN = bySchema(origin);
const PREV_ORIGIN = bySchema(origin);
const TIME = bySchema(timestamp);
const PROFILE = bySchema(profileRef.shape.name);
/** None of them is longer. */
const MAX_REPEATED = 128;
const MAX_SPKI = 1024;
const MAX_SLOT = 100_000_000;
const MAX_PATH = 63;
const MAX_PREV = 8;

const among = (characters: string): Uint8Array => {
  const table = new Uint8Array(256);
  for (const byte of utf8(characters)) table[byte] = 1;
  return table;
};
const DIGITS = "0123456789";
const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const HEX = among(`${DIGITS}abcdef`);
const BASE64 = among(`${DIGITS}${LETTERS}+/`);
/** The last character before padding: the bits that it leaves over are zero (as `base64` in primitives.ts). */
const LAST_OF_2 = among("AQgw");
const LAST_OF_3 = among("AEIMQUYcgkosw048");
const ID_FIRST = among(`${DIGITS}${LETTERS}`);
const ID = among(`${DIGITS}${LETTERS}._:-`);
const QUOTE = 0x22;
const ZERO = 0x30;
const EQUALS = 0x3d;

const START = utf8('{"_type":"https://in-toto.io/Statement/v1","predicate":{"blobs":[],"fields":{"');
const CERTIFIED = utf8('certificate":"');
const BUILT = utf8('csrSha256":"');
const INSTALLED = utf8("intake");
const INTAKE = utf8('","intake');
const INTAKE_DIGEST = utf8('":{"digest":"');
const INTAKE_INDEX = utf8('","index":');
const INTAKE_PATH = utf8(',"kind":"manifest","path":');
const INTENT = utf8('},"intent":{"index":');
const INTENT_LEAF = utf8(',"leafHash":"');
const NEXT_PATH = utf8('","path":');
const NEXT_LOT = utf8('},"lot":"');
const NEXT_PROFILE = utf8('","profile":{"name":"');
const NEXT_SHA256 = utf8('","sha256":"');
const INITIAL = utf8('"},"purpose":"initial","slot":');
const RENEWAL = utf8('"},"purpose":"renewal","slot":');
const NEXT_SLOT = utf8('","slot":');
const NEXT_SPKI = utf8(',"spki":"');
const NEXT_PLACE = utf8('","place":"');
const NEXT_TECHNICIAN = utf8(',"technician":"');
const NEXT_TIME = utf8('","time":"');
const GRANT = utf8('},"grant":{"leafHash":"');
const NEXT_ORIGIN = utf8('","origin":"');
const END_GRANT = utf8('"},"origin":"');
const NO_GRANT = utf8('},"origin":"');
const NEXT_PARTY = utf8('","party":"');
const PREVS = utf8('","prev":[');
const PREV = utf8('{"leafHash":"');
const LIST_INDEX = utf8('","listIndex":');
const COMMA_ORIGIN = utf8(',"origin":"');
const END_PREV = utf8('"}');
const END_PREV_PATH = utf8("}");
const COMMA = utf8(",");
const CLOSE = utf8("]");
const OPEN_CLOSE = utf8("[]");
const OPEN_HASH = utf8('["');
const BETWEEN_HASHES = utf8('","');
const CLOSE_HASH = utf8('"]');
const RETRY_KEY = utf8('],"retryKey":"');
const END_OF = {
  built: utf8('"},"predicateType":"urn:countersign:act:built:v1","subject":[{"digest":{"sha256":"'),
  certified: utf8('"},"predicateType":"urn:countersign:act:certified:v1","subject":[{"digest":{"sha256":"'),
  installed: utf8('"},"predicateType":"urn:countersign:act:installed:v1","subject":[{"digest":{"sha256":"'),
};
const NAME = utf8('"},"name":"');
const END = utf8('"}]}');

class Scanner {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  record(): LineScan {
    this.#text(START);
    const fields = this.#fields();
    if (this.#has(GRANT)) {
      this.#hash();
      this.#text(NEXT_ORIGIN);
      this.#known(GRANT_ORIGIN);
      this.#text(END_GRANT);
    } else {
      this.#text(NO_GRANT);
    }
    const log = this.#known(ORIGIN);
    this.#text(NEXT_PARTY);
    const party = this.#known(PARTY);
    this.#text(PREVS);
    this.#prevs();
    this.#text(RETRY_KEY);
    this.#hash();
    this.#text(NEXT_TIME);
    this.#known(TIME);
    this.#text(END_OF[fields.type]);
    this.#hash();
    this.#text(NAME);
    this.#deviceId();
    this.#text(END);
    if (this.#at !== this.#bytes.length) throw UNFIT;
    return { ...fields, origin: log, party };
  }

  #fields(): Omit<LineScan, "origin" | "party"> {
    if (this.#has(CERTIFIED)) return this.#certified();
    if (this.#has(BUILT)) return this.#built();
    this.#text(INSTALLED);
    return this.#installed();
  }

  #certified(): Omit<LineScan, "origin" | "party"> {
    const [from, to] = [this.#at, this.#base64(MAX_SHOWN_CERTIFICATE)];
    this.#text(INTAKE);
    this.#intake();
    this.#text(INTENT);
    this.#count(Number.MAX_SAFE_INTEGER);
    this.#text(INTENT_LEAF);
    this.#hash();
    this.#text(NEXT_PATH);
    this.#path();
    this.#text(NEXT_LOT);
    const lot = this.#known(LOT);
    this.#text(NEXT_PROFILE);
    this.#known(PROFILE);
    this.#text(NEXT_SHA256);
    this.#hash();
    const purpose = this.#has(INITIAL) ? "initial" : "renewal";
    if (purpose === "renewal") this.#text(RENEWAL);
    const slot = this.#slot();
    return { type: "certified", lot, slot, purpose, certificate: fromUtf8(this.#bytes.subarray(from, to)) };
  }

  #built(): Omit<LineScan, "origin" | "party"> {
    this.#hash();
    this.#text(INTAKE);
    this.#intake();
    this.#text(NEXT_LOT);
    const lot = this.#known(LOT);
    this.#text(NEXT_SLOT);
    const slot = this.#slot();
    this.#text(NEXT_SPKI);
    this.#base64(MAX_SPKI);
    // Closes the string; the object closes with what comes next.
    this.#byte(QUOTE);
    return { type: "built", lot, slot };
  }

  #installed(): Omit<LineScan, "origin" | "party"> {
    this.#intake();
    this.#text(NEXT_LOT);
    const lot = this.#known(LOT);
    this.#text(NEXT_PLACE);
    this.#hash();
    this.#text(NEXT_SLOT);
    const slot = this.#slot();
    this.#text(NEXT_TECHNICIAN);
    this.#hash();
    this.#text(NEXT_TIME);
    this.#hash();
    this.#byte(QUOTE);
    return { type: "installed", lot, slot };
  }

  #intake(): void {
    this.#text(INTAKE_DIGEST);
    this.#hash();
    this.#text(INTAKE_INDEX);
    this.#count(Number.MAX_SAFE_INTEGER);
    this.#text(INTAKE_PATH);
    this.#path();
  }

  #prevs(): void {
    for (let n = 0; this.#bytes[this.#at] !== CLOSE[0]; n++) {
      if (n === MAX_PREV) throw UNFIT;
      if (n > 0) this.#text(COMMA);
      this.#text(PREV);
      this.#hash();
      if (this.#has(LIST_INDEX)) {
        this.#count(Number.MAX_SAFE_INTEGER);
        this.#text(COMMA_ORIGIN);
      } else {
        this.#text(NEXT_ORIGIN);
      }
      this.#known(PREV_ORIGIN);
      if (this.#has(NEXT_PATH)) {
        this.#path();
        this.#text(END_PREV_PATH);
      } else {
        this.#text(END_PREV);
      }
    }
  }

  #path(): void {
    if (this.#has(OPEN_CLOSE)) return;
    this.#text(OPEN_HASH);
    this.#hash();
    for (let n = 1; !this.#has(CLOSE_HASH); n++) {
      if (n === MAX_PATH) throw UNFIT;
      this.#text(BETWEEN_HASHES);
      this.#hash();
    }
  }

  #has(text: Uint8Array): boolean {
    const [bytes, at] = [this.#bytes, this.#at];
    for (let i = 0; i < text.length; i++) if (bytes[at + i] !== text[i]) return false;
    this.#at = at + text.length;
    return true;
  }

  #text(text: Uint8Array): void {
    if (!this.#has(text)) throw UNFIT;
  }

  #byte(byte: number): void {
    if (this.#bytes[this.#at++] !== byte) throw UNFIT;
  }

  #hash(): void {
    const bytes = this.#bytes;
    const end = this.#at + 64;
    if (end > bytes.length) throw UNFIT;
    for (let at = this.#at; at < end; at++) if (HEX[bytes[at]!] === 0) throw UNFIT;
    this.#at = end;
  }

  /** Canonical: no sign, no leading zero. */
  #count(most: number): number {
    const bytes = this.#bytes;
    const start = this.#at;
    let value = 0;
    let at = start;
    for (; at < bytes.length; at++) {
      const digit = bytes[at]! - ZERO;
      if (digit < 0 || digit > 9) break;
      value = value * 10 + digit;
      // Exact up to here, and past it no more digits can bring it back.
      if (value > most) throw UNFIT;
    }
    if (at === start || (bytes[start] === ZERO && at > start + 1)) throw UNFIT;
    this.#at = at;
    return value;
  }

  #slot(): number {
    const slot = this.#count(MAX_SLOT);
    if (slot === 0) throw UNFIT;
    return slot;
  }

  /** Up to the quote. Gives where that is. */
  #base64(mostBytes: number): number {
    const bytes = this.#bytes;
    const start = this.#at;
    let at = start;
    while (at < bytes.length && BASE64[bytes[at]!] === 1) at++;
    const read = (at - start) % 4;
    const last = bytes[at - 1]!;
    if (read === 2 && LAST_OF_2[last] === 1 && bytes[at] === EQUALS && bytes[at + 1] === EQUALS) at += 2;
    else if (read === 3 && LAST_OF_3[last] === 1 && bytes[at] === EQUALS) at += 1;
    else if (read !== 0) throw UNFIT;
    if (at - start > 4 * Math.ceil(mostBytes / 3)) throw UNFIT;
    this.#at = at;
    return at;
  }

  #deviceId(): void {
    const bytes = this.#bytes;
    const start = this.#at;
    if (ID_FIRST[bytes[start]!] !== 1) throw UNFIT;
    let at = start + 1;
    while (at < bytes.length && ID[bytes[at]!] === 1) at++;
    if (at - start > 64) throw UNFIT;
    this.#at = at;
  }

  /** Up to the quote, which is left. */
  #known(value: Repeated): string {
    const { bytes: seen } = value;
    if (seen.length > 0 && this.#has(seen)) {
      if (this.#bytes[this.#at] === QUOTE) return value.text;
      this.#at -= seen.length;
    }
    const end = this.#bytes.indexOf(QUOTE, this.#at);
    if (end === -1 || end - this.#at > MAX_REPEATED) throw UNFIT;
    const bytes = this.#bytes.slice(this.#at, end);
    const text = String.fromCharCode(...bytes);
    if (!value.fits(text)) throw UNFIT;
    Object.assign(value, { bytes, text });
    this.#at = end;
    return text;
  }
}
