import { createHash, generateKeyPairSync, sign } from "node:crypto";
import { concatBytes, utf8 } from "../../lib/domain/bytes.ts";
import type { Signer } from "../../lib/domain/signing.ts";
import { erasedPartition, type Layout } from "../../lib/firmware/index.ts";
import { encodeUnprotected, TLV } from "../../lib/firmware/mcuboot-image.ts";
import { formatSrecord } from "../../lib/firmware/srec-records.ts";
import { formatBlock } from "../../lib/firmware/uf2-blocks.ts";

/** A small whole image of each format that lib/ has, and a layout that fits it: what fuzzing starts from. */

export interface SeedImage {
  readonly format: string;
  readonly image: Uint8Array;
  readonly layout: Layout;
}

export function seedImages(): SeedImage[] {
  return [
    { format: "intel-hex", image: utf8(HEX), layout: { offset: 0x8000 } },
    { format: "srec", image: utf8(SREC), layout: { offset: 0x8000 } },
    { format: "uf2", image: uf2(), layout: { offset: 0x8000 } },
    { format: "raw", image: flash(0x3000), layout: { offset: 0x1000 } },
    { format: "esp-secure-cert", image: erasedPartition(), layout: {} },
    { format: "esp-nvs", image: new Uint8Array(0x3000).fill(0xff), layout: { namespace: "factory", key: "chain" } },
    { format: "esp-flash", image: espFlash(), layout: {} },
    { format: "elf", image: elf(), layout: {} },
    { format: "mcuboot", image: mcuboot(), layout: {} },
  ];
}

/** For formats that sign again. */
export function seedSigner(): Signer {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  return {
    spki: new Uint8Array(publicKey.export({ type: "spki", format: "der" })),
    algorithm: "ecdsa-p256-sha256",
    sign: async (message) => new Uint8Array(sign("sha256", message, privateKey)),
  };
}

const HEX = ":020000040001F9\r\n:04001000DEADBEEFB4\r\n:0400000500000000F7\r\n:00000001FF\r\n";
const SREC = [
  formatSrecord(0, 0, utf8("seed")),
  formatSrecord(3, 0x1000, utf8("code and data")),
  formatSrecord(5, 1, new Uint8Array(0)),
  formatSrecord(7, 0x1000, new Uint8Array(0)),
  "",
].join("\n");

function uf2(): Uint8Array {
  const payload = new Uint8Array(256).fill(0x5a);
  return concatBytes(...[0, 1].map((number) => formatBlock(0x100 * number, payload, { number, count: 2 }, 0xe48bff56)));
}

function flash(size: number): Uint8Array {
  const image = new Uint8Array(size).fill(0xff);
  image.fill(0x42, 0, 0x100);
  return image;
}

function espFlash(): Uint8Array {
  const entry = Buffer.alloc(32);
  entry.set([0xaa, 0x50, 0x3f, 6]);
  entry.writeUInt32LE(0xa000, 4);
  entry.writeUInt32LE(0x2000, 8);
  entry.write("esp_secure_cert", 12, "ascii");
  const image = flash(0xc000);
  const sum = createHash("md5").update(entry).digest();
  image.set(Buffer.concat([entry, Buffer.from([0xeb, 0xeb]), Buffer.alloc(14, 0xff), sum]), 0x8000);
  return image;
}

/** Header, program header, code, the reserved section, section names, three section headers. */
function elf(): Uint8Array {
  const names = utf8("\0.countersign\0.shstrtab\0");
  const [codeAt, size, address] = [0x100, 0x1000, 0x1000_0000];
  const namesAt = codeAt + size;
  const headersAt = namesAt + names.length;
  const image = Buffer.alloc(headersAt + 3 * 40);
  image.set([0x7f, 0x45, 0x4c, 0x46, 1, 1, 1]);
  image.writeUInt16LE(2, 16);
  image.writeUInt32LE(52, 28);
  image.writeUInt32LE(headersAt, 32);
  [52, 32, 1, 40, 3, 2].forEach((value, i) => image.writeUInt16LE(value, 40 + 2 * i));
  [1, codeAt, address, address, size, size].forEach((value, i) => image.writeUInt32LE(value, 52 + 4 * i));
  image.fill(0xff, codeAt, namesAt);
  image.set(names, namesAt);
  const section = (i: number, ...words: number[]) =>
    words.forEach((word, n) => image.writeUInt32LE(word, headersAt + 40 * i + 4 * n));
  section(1, 1, 1, 2, address, codeAt, size);
  section(2, 14, 3, 0, 0, namesAt, names.length);
  return new Uint8Array(image);
}

function mcuboot(): Uint8Array {
  const header = Buffer.alloc(512);
  header.writeUInt32LE(0x96f3b83d, 0);
  header.writeUInt16LE(512, 8);
  header.writeUInt32LE(600, 12);
  const covered = Buffer.concat([header, Buffer.alloc(600, 5)]);
  const value = new Uint8Array(createHash("sha256").update(covered).digest());
  return concatBytes(covered, encodeUnprotected([{ type: TLV.sha256, value }]));
}
