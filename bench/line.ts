import "reflect-metadata";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { appendFileSync, mkdtempSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as x509 from "@peculiar/x509";
import { erasedPartition, type Layout } from "../lib/firmware/index.ts";
import { formatRecord } from "../lib/firmware/hex-records.ts";
import { formatSrecord } from "../lib/firmware/srec-records.ts";
import { formatBlock } from "../lib/firmware/uf2-blocks.ts";
import { injectBatch, type DeviceChain } from "../services/firmware/inject.ts";

/**
 * Images a second on the line: batches as a lot's activity writes them (planned, written, read back, receipts, all of a
 * batch on disk before it counts), format by format, each in a process of its own. `node bench/line.ts [--json]`
 */

const BATCH = 256;

interface Case {
  readonly format: string;
  readonly what: string;
  readonly layout: Layout;
  readonly devices: number;
  write(path: string): void;
}

/** Bytes that are neither blank nor all the same. */
const random = (size: number) => new Uint8Array(size).map((_, i) => (i * 197 + (i >> 8) * 31) & 0x7f);
const MEGABYTE = 1 << 20;

const CASES: readonly Case[] = [
  {
    format: "esp-secure-cert",
    what: "erased partition, 8 KB",
    layout: {},
    devices: 2048,
    write: (path) => writeFileSync(path, erasedPartition()),
  },
  {
    format: "intel-hex",
    what: "500 KB of lines",
    layout: { offset: 0x100000, length: 0x2000 },
    devices: 768,
    write: (path) => writeFileSync(path, hexLines(500_000)),
  },
  {
    format: "srec",
    what: "500 KB of lines",
    layout: { offset: 0x100000, length: 0x2000 },
    devices: 768,
    write: (path) => writeFileSync(path, srecLines(500_000)),
  },
  {
    format: "uf2",
    what: "500 KB",
    layout: { offset: 0x100000 },
    devices: 768,
    write: (path) => writeFileSync(path, uf2(976)),
  },
  {
    format: "esp-nvs",
    what: "erased partition, 24 KB",
    layout: { namespace: "factory", key: "chain" },
    devices: 1024,
    write: (path) => writeFileSync(path, new Uint8Array(0x6000).fill(0xff)),
  },
  {
    format: "raw",
    what: "1 MB flash",
    layout: { offset: 0x80000 },
    devices: 512,
    write: (path) => writeFileSync(path, Buffer.alloc(MEGABYTE, 0xff).fill(0x42, 0, 0x40000)),
  },
  {
    format: "esp-flash",
    what: "4 MB flash",
    layout: {},
    devices: 256,
    write: (path) => writeFileSync(path, flash(4 * MEGABYTE)),
  },
  {
    format: "raw",
    what: "512 MB flash",
    layout: { offset: 0x1000_0000 },
    devices: 4,
    write(path) {
      writeFileSync(path, random(MEGABYTE));
      for (let written = 1; written < 128; written++) appendFileSync(path, random(MEGABYTE));
      truncateSync(path, 512 * MEGABYTE);
    },
  },
];

function hexLines(size: number): string {
  const lines: string[] = [];
  for (let at = 0, length = 0; length < size; at += 16) {
    if (at % 0x10000 === 0) lines.push(formatRecord(4, 0, Uint8Array.of(0, at >> 16)));
    lines.push(formatRecord(0, at & 0xffff, random(16)));
    length += 44;
  }
  return [...lines, ":00000001FF", ""].join("\n");
}

function srecLines(size: number): string {
  const lines: string[] = [];
  for (let at = 0; lines.length * 47 < size; at += 16) lines.push(formatSrecord(3, at, random(16)));
  return [...lines, formatSrecord(7, 0, new Uint8Array(0)), ""].join("\n");
}

function uf2(count: number): Buffer {
  const payload = random(256);
  return Buffer.concat(
    Array.from({ length: count }, (_, number) => formatBlock(256 * number, payload, { number, count }, 0xe48bff56)),
  );
}

function flash(size: number): Buffer {
  const entry = Buffer.alloc(32);
  entry.set([0xaa, 0x50, 0x3f, 6]);
  entry.writeUInt32LE(0xd000, 4);
  entry.writeUInt32LE(0x2000, 8);
  entry.write("esp_secure_cert", 12, "ascii");
  const sum = createHash("md5").update(entry).digest();
  const image = Buffer.alloc(size, 0xff).fill(0x42, 0x10000, 0x200000);
  Buffer.concat([entry, Buffer.from([0xeb, 0xeb]), Buffer.alloc(14, 0xff), sum]).copy(image, 0x8000);
  return image;
}

/** Leaf, and two CAs above it, for each device; they share one key, which costs nothing here. */
async function chains(count: number): Promise<DeviceChain[]> {
  const keys = (await crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, true, [
    "sign",
    "verify",
  ])) as CryptoKeyPair;
  const issue = async (issuer: string, subject: string, ca: boolean) => {
    const certificate = await x509.X509CertificateGenerator.create({
      subject: `CN=${subject}`,
      issuer: `CN=${issuer}`,
      publicKey: keys.publicKey,
      signingKey: keys.privateKey,
      signingAlgorithm: { name: "ECDSA", hash: "SHA-256" },
      notBefore: new Date("2026-01-01T00:00:00Z"),
      notAfter: new Date("2036-01-01T00:00:00Z"),
      extensions: [
        new x509.BasicConstraintsExtension(ca, undefined, true),
        new x509.KeyUsagesExtension(ca ? x509.KeyUsageFlags.keyCertSign : x509.KeyUsageFlags.digitalSignature, true),
        await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
        await x509.AuthorityKeyIdentifierExtension.create(keys.publicKey),
        new x509.ExtendedKeyUsageExtension(["1.3.6.1.5.5.7.3.2"]),
      ],
    });
    return new Uint8Array(certificate.rawData);
  };
  const above = [await issue("factory-y CA", "technician-z CA", true), await issue("Root", "factory-y CA", true)];
  const spki = new Uint8Array(await crypto.subtle.exportKey("spki", keys.publicKey));
  const spkiSha256 = createHash("sha256").update(spki).digest("hex");
  const devices: DeviceChain[] = [];
  for (let slot = 1; slot <= count; slot++) {
    const deviceId = `line-${slot}`;
    const leaf = await issue("technician-z CA", deviceId, false);
    devices.push({ deviceId, lot: "line", slot, chainDer: [leaf, ...above], spkiSha256 });
  }
  return devices;
}

interface Figures {
  format: string;
  what: string;
  bytes: number;
  devices: number;
  seconds: number;
  imagesPerSecond: number;
  cpuMsPerImage: number;
  peakRssMb: number;
}

async function measure(one: Case): Promise<Figures> {
  const { devices: count, format, layout, what } = one;
  const dir = mkdtempSync(join(tmpdir(), "countersign-line-"));
  try {
    const templatePath = join(dir, "template");
    one.write(templatePath);
    const devices = await chains(count);
    const bytes = statSync(templatePath).size;
    const templateSha256 = createHash("sha256");
    const request = { format, layout, templatePath, outDir: join(dir, "out") };
    const size = bytes > 64 * MEGABYTE ? 1 : BATCH;
    // The digest pins the template, so that it is parsed once for all batches, as a lot's is.
    if (bytes <= 64 * MEGABYTE)
      templateSha256.update(execFileSync("cat", [templatePath], { maxBuffer: 128 * MEGABYTE }));
    const pinned = bytes <= 64 * MEGABYTE ? { templateSha256: templateSha256.digest("hex") } : {};
    const began = process.hrtime.bigint();
    const cpu = process.cpuUsage();
    for (let from = 0; from < devices.length; from += size) {
      const results = await injectBatch({ ...request, ...pinned, devices: devices.slice(from, from + size) });
      const failed = results.find((result) => !result.ok);
      if (failed !== undefined && !failed.ok) throw failed.error;
      if (bytes > 64 * MEGABYTE) rmSync(request.outDir, { recursive: true });
    }
    const seconds = Number(process.hrtime.bigint() - began) / 1e9;
    const { system, user } = process.cpuUsage(cpu);
    return {
      format,
      what,
      bytes,
      devices: count,
      seconds: Math.round(seconds * 100) / 100,
      imagesPerSecond: Math.round((count / seconds) * 10) / 10,
      cpuMsPerImage: Math.round((system + user) / 10 / count) / 100,
      peakRssMb: Math.round(process.resourceUsage().maxRSS / 1024),
    };
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
}

const chosen = process.argv.indexOf("--case");
if (chosen > 0) {
  console.log(JSON.stringify(await measure(CASES[Number(process.argv[chosen + 1])]!)));
} else {
  const json = process.argv.includes("--json");
  if (!json) console.log("format            template                  images/s   CPU ms/image   peak RSS MB");
  for (const [i] of CASES.entries()) {
    const run = execFileSync(process.execPath, [import.meta.filename, "--case", String(i)], { encoding: "utf8" });
    const one = JSON.parse(run) as Figures;
    const cells = [
      one.format.padEnd(17),
      one.what.padEnd(25),
      String(one.imagesPerSecond).padStart(8),
      String(one.cpuMsPerImage).padStart(14),
      String(one.peakRssMb).padStart(13),
    ];
    console.log(json ? JSON.stringify(one) : cells.join(" "));
  }
}
