import type { Sha256 } from "../../domain/hash.ts";
import { fromHex, toHex } from "../../domain/bytes.ts";
import type { Certificate } from "../../pki/certificate.ts";
import { bytes, words } from "./packed/column.ts";
import { DigestTable } from "./packed/digest-table.ts";
import { NameTable } from "./packed/name-table.ts";
import { CHAIN_ENCODINGS, chainIn, type ChainEncoding } from "./injected-chain.ts";

/** Strings that many devices share. */
class Shared {
  readonly #numbers = new Map<string, number>();
  readonly #texts: string[] = [];

  number(text: string): number {
    let number = this.#numbers.get(text);
    if (number === undefined) this.#numbers.set(text, (number = this.#texts.push(text) - 1));
    return number;
  }

  text(number: number): string {
    return this.#texts[number]!;
  }
}

const MISSING = 1;
const CERTIFIED = 2;
const INJECTED = 4;
const INSTALLED = 8;
const ATTESTED = 16;

const DIGEST = 32;

class Columns {
  readonly ids = new NameTable();
  readonly keys = new DigestTable();
  readonly requests = new DigestTable();
  readonly shared = new Shared();
  readonly lots = words();
  readonly slots = words();
  /** of `shared` + 1; 0 is nobody */
  readonly holders = words();
  readonly flags = bytes();
  /** a row of the acts that were seen */
  readonly lasts = words();
  /** number of a handoff + 1 and the place in its list; 0 is none */
  readonly lists = words(2);
  /** the certifying party, of `shared`; a row of the acts that were seen; a row of the serial numbers */
  readonly issued = words(3);
  /** SHA-256 of the certificate, then of its chain in each encoding */
  readonly certificates = bytes((1 + CHAIN_ENCODINGS.length) * DIGEST);
  readonly receipts = bytes(DIGEST);
}

export interface NewDevice {
  readonly id: string;
  readonly lot: string;
  readonly slot: number;
  readonly spkiSha256: string;
  readonly csrSha256: string;
  readonly holder: string;
  /** the row of its first act among those that were seen */
  readonly last: number;
}

export interface IssuedCertificate {
  /** the certifying party */
  readonly issuer: string;
  /** the row of the act that certified it among those that were seen */
  readonly act: number;
  /** the row of its serial number */
  readonly serial: number;
  readonly certificate: Certificate;
  /** the issuer's certificate first, the root last */
  readonly chain: readonly Certificate[];
}

/**
 * What an audit knows of the devices: some 120 bytes each, 140 more with a certificate, whatever their number. A
 * certificate is remembered by what is asked of it later: its digest, and those of the chains that an image may hold.
 */
export class Devices {
  readonly #in = new Columns();

  get size(): number {
    return this.#in.ids.size;
  }

  has(id: string): boolean {
    return this.#in.ids.has(id);
  }

  get(id: string): DeviceState | undefined {
    const row = this.#in.ids.find(id);
    return row < 0 ? undefined : new DeviceState(this.#in, row);
  }

  /** The device of a row that `row` gave. */
  at(row: number): DeviceState {
    return new DeviceState(this.#in, row);
  }

  hasKey(spkiSha256: string): boolean {
    return this.#in.keys.has(spkiSha256);
  }

  hasRequest(csrSha256: string): boolean {
    return this.#in.requests.has(csrSha256);
  }

  /** A device of which neither ID nor key nor request was there before. */
  add(device: NewDevice): void {
    const { ids, keys, requests, shared, lots, slots, holders, lasts } = this.#in;
    const row = ids.add(device.id);
    keys.add(device.spkiSha256);
    requests.add(device.csrSha256);
    lots.set(row, shared.number(device.lot));
    slots.set(row, device.slot);
    holders.set(row, shared.number(device.holder) + 1);
    lasts.set(row, device.last);
  }

  *values(): Generator<DeviceState, void, undefined> {
    for (let row = 0; row < this.size; row++) yield new DeviceState(this.#in, row);
  }
}

/** One device: reads and writes the columns. */
export class DeviceState {
  readonly #in: Columns;
  readonly row: number;

  constructor(columns: Columns, row: number) {
    this.#in = columns;
    this.row = row;
  }

  get id(): string {
    return this.#in.ids.name(this.row);
  }
  get lot(): string {
    return this.#in.shared.text(this.#in.lots.get(this.row));
  }
  get slot(): number {
    return this.#in.slots.get(this.row);
  }
  get spkiSha256(): string {
    return this.#in.keys.hex(this.row);
  }
  get csrSha256(): string {
    return this.#in.requests.hex(this.row);
  }

  /** who has it; undefined while it is on its way */
  get holder(): string | undefined {
    const holder = this.#in.holders.get(this.row);
    return holder === 0 ? undefined : this.#in.shared.text(holder - 1);
  }
  set holder(party: string | undefined) {
    this.#in.holders.set(this.row, party === undefined ? 0 : this.#in.shared.number(party) + 1);
  }

  /** the last act about it: its row among those that were seen */
  get last(): number {
    return this.#in.lasts.get(this.row);
  }
  set last(act: number) {
    this.#in.lasts.set(this.row, act);
  }

  /** when the last act covers a list: the number of its handoff, and the device's place in it */
  get list(): { readonly handoff: number; readonly place: number } | undefined {
    const handoff = this.#in.lists.get(this.row, 0);
    return handoff === 0 ? undefined : { handoff: handoff - 1, place: this.#in.lists.get(this.row, 1) };
  }
  set list(list: { readonly handoff: number; readonly place: number } | undefined) {
    if (list === undefined && this.#in.lists.get(this.row) === 0) return;
    this.#in.lists.put(this.row, list === undefined ? [0, 0] : [list.handoff + 1, list.place]);
  }

  /** released, and by its taker's word not arrived */
  get missing(): boolean {
    return this.#has(MISSING);
  }
  setMissing(): void {
    this.#mark(MISSING);
  }

  get installed(): boolean {
    return this.#has(INSTALLED);
  }
  setInstalled(): void {
    this.#mark(INSTALLED);
  }

  /** its TPM was asked, before it was certified */
  get attested(): boolean {
    return this.#has(ATTESTED);
  }
  setAttested(): void {
    this.#mark(ATTESTED);
  }

  get certified(): boolean {
    return this.#has(CERTIFIED);
  }
  setCertificate({ issuer, act, serial, certificate, chain }: IssuedCertificate, sha256: Sha256): void {
    const digests = [certificate.der, ...CHAIN_ENCODINGS.map((encoding) => chainIn(encoding, certificate, chain))];
    const packed = new Uint8Array(digests.length * DIGEST);
    for (const [i, encoded] of digests.entries()) packed.set(sha256(encoded), i * DIGEST);
    this.#in.certificates.put(this.row, packed);
    this.#in.issued.put(this.row, [this.#in.shared.number(issuer), act, serial]);
    this.#mark(CERTIFIED);
  }
  /** the party that certified it */
  get issuer(): string | undefined {
    return this.certified ? this.#in.shared.text(this.#in.issued.get(this.row, 0)) : undefined;
  }
  /** the row of the act that certified it among those that were seen */
  get certificateAct(): number | undefined {
    return this.certified ? this.#in.issued.get(this.row, 1) : undefined;
  }
  /** the row of its certificate's serial number */
  get certificateSerial(): number | undefined {
    return this.certified ? this.#in.issued.get(this.row, 2) : undefined;
  }
  /** SHA-256 of its certificate's DER, hex */
  get certificateSha256(): string | undefined {
    return this.certified ? this.#certificateDigest(0) : undefined;
  }
  /** SHA-256 of what an image holds: its certificate and its issuers' up to the root, hex */
  chainSha256(encoding: ChainEncoding): string | undefined {
    return this.certified ? this.#certificateDigest(1 + CHAIN_ENCODINGS.indexOf(encoding)) : undefined;
  }
  #certificateDigest(at: number): string {
    return toHex(this.#in.certificates.bytes(this.row)!.subarray(at * DIGEST, (at + 1) * DIGEST));
  }

  get injected(): boolean {
    return this.#has(INJECTED);
  }
  /** @param receiptSha256 of the logged receipt's canonical JSON, hex */
  setInjected(receiptSha256: string): void {
    this.#in.receipts.put(this.row, fromHex(receiptSha256));
    this.#mark(INJECTED);
  }
  get receiptSha256(): string | undefined {
    return this.injected ? toHex(this.#in.receipts.bytes(this.row)!) : undefined;
  }

  #has(flag: number): boolean {
    return (this.#in.flags.get(this.row) & flag) !== 0;
  }
  #mark(flag: number): void {
    this.#in.flags.set(this.row, this.#in.flags.get(this.row) | flag);
  }
}
