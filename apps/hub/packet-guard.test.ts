import { PassThrough } from "node:stream";
import type { TLSSocket } from "node:tls";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { PacketGuard } from "./packet-guard.ts";

/** A plain stream in the socket's place: the guard only reads, writes and ends it. */
function guarded(): { wire: PassThrough; guard: PacketGuard; read: () => Buffer } {
  const wire = new PassThrough();
  const socket = Object.assign(wire, { destroySoon: () => wire.destroy() }) as unknown as TLSSocket;
  const guard = new PacketGuard(socket, { firstPacketBytes: 100, packetBytes: 1000 });
  const parts: Buffer[] = [];
  guard.on("data", (part: Buffer) => parts.push(part)).on("error", () => undefined);
  return { wire, guard, read: () => Buffer.concat(parts) };
}

function packet(bodyLength: number): Buffer {
  const length: number[] = [];
  let rest = bodyLength;
  do {
    length.push((rest & 0x7f) | (rest > 0x7f ? 0x80 : 0));
    rest >>= 7;
  } while (rest > 0);
  return Buffer.concat([Buffer.from([0x30, ...length]), Buffer.alloc(bodyLength, 0xff)]);
}

const settle = () => new Promise((resolve) => setImmediate(() => setImmediate(resolve)));

async function feed(bytes: Buffer, cuts: number[]): Promise<{ passed: Buffer; ended: boolean }> {
  const { wire, guard, read } = guarded();
  let at = 0;
  for (const cut of [...cuts.map((one) => one % (bytes.length + 1)).sort((a, b) => a - b), bytes.length]) {
    if (cut > at && !guard.destroyed) wire.write(bytes.subarray(at, cut));
    at = Math.max(at, cut);
    await settle();
  }
  await settle();
  return { passed: read(), ended: guard.destroyed };
}

describe("the packet guard", () => {
  it("passes packets within the limits unchanged, however they are cut", async () => {
    const lengths = fc.tuple(fc.nat(100), fc.array(fc.nat(1000), { maxLength: 4 }));
    await fc.assert(
      fc.asyncProperty(lengths, fc.array(fc.nat(), { maxLength: 6 }), async ([first, later], cuts) => {
        const bytes = Buffer.concat([first, ...later].map(packet));
        const { passed, ended } = await feed(bytes, cuts);
        expect(ended).toBe(false);
        expect(passed.equals(bytes)).toBe(true);
      }),
      { numRuns: 60 },
    );
  });

  it("ends at the header of a packet above its limit, however it is cut", async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.integer({ min: 1001, max: 4000 }),
        fc.array(fc.nat(), { maxLength: 6 }),
        async (size, cuts) => {
          expect((await feed(Buffer.concat([packet(10), packet(size)]), cuts)).ended).toBe(true);
        },
      ),
      { numRuns: 40 },
    );
    expect((await feed(packet(101), [])).ended).toBe(true);
  });

  it("ends at a length that never ends", async () => {
    expect((await feed(Buffer.from([0x10, 0xff, 0xff, 0xff, 0xff, 0x7f]), [])).ended).toBe(true);
  });
});
