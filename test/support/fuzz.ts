/** Spoils DER for tests: deterministic, so that a failure can be run again from its seed. */

/** mulberry32: enough for choosing what to break. */
export function dice(seed: number): (sides: number) => number {
  let state = seed >>> 0;
  return (sides) => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % sides;
  };
}

type Roll = ReturnType<typeof dice>;

const LENGTHS = ["80", "8180", "820000", "84ffffffff", "8500ffffffff", "fe", "847fffffff", "83010000"];
const TAGS = [0x02, 0x03, 0x04, 0x05, 0x06, 0x0c, 0x13, 0x17, 0x18, 0x1e, 0x30, 0x31, 0x80, 0xa0, 0xa3, 0x1f, 0x00];

const MUTATIONS: readonly ((bytes: Buffer, roll: Roll) => Buffer)[] = [
  (bytes, roll) => flip(bytes, roll, 1),
  (bytes, roll) => flip(bytes, roll, 1 + roll(16)),
  (bytes, roll) => bytes.subarray(0, roll(bytes.length)),
  (bytes, roll) => bytes.subarray(roll(bytes.length)),
  (bytes, roll) => splice(bytes, roll(bytes.length), 1, Buffer.from([TAGS[roll(TAGS.length)]!])),
  (bytes, roll) => splice(bytes, roll(bytes.length), 1 + roll(2), Buffer.from(LENGTHS[roll(LENGTHS.length)]!, "hex")),
  (bytes, roll) => splice(bytes, roll(bytes.length), roll(40), Buffer.alloc(0)),
  (bytes, roll) => {
    const from = roll(bytes.length);
    return splice(bytes, roll(bytes.length), 0, bytes.subarray(from, from + 1 + roll(200)));
  },
  (bytes, roll) => inside(bytes, roll, nested(size(roll, 20_000))),
  (bytes, roll) => inside(bytes, roll, Buffer.alloc(size(roll, 70_000), roll(256))),
  (bytes, roll) => inside(bytes, roll, repeated(bytes, roll)),
  (_bytes, roll) => Buffer.from(Array.from({ length: roll(600) }, () => roll(256))),
  (_bytes, roll) => nested(size(roll, 20_000)),
];

/** One spoiled copy; some grow beyond 64 KiB. */
export function spoil(sample: Uint8Array, roll: Roll): Uint8Array {
  let bytes: Buffer = Buffer.from(sample);
  for (let i = 1 + roll(3); i > 0 && bytes.length > 1; i--) bytes = MUTATIONS[roll(MUTATIONS.length)]!(bytes, roll);
  return new Uint8Array(bytes);
}

function flip(bytes: Buffer, roll: Roll, count: number): Buffer {
  const changed = Buffer.from(bytes);
  for (let i = 0; i < count; i++) changed[roll(changed.length)]! ^= 1 + roll(255);
  return changed;
}

function splice(bytes: Buffer, at: number, remove: number, insert: Buffer): Buffer {
  return Buffer.concat([bytes.subarray(0, at), insert, bytes.subarray(at + remove)]);
}

/** Mostly small; one in twenty as large as may be. */
function size(roll: Roll, max: number): number {
  return 1 + roll(roll(20) === 0 ? max : 300);
}

/** SEQUENCEs, one in another, of right lengths; written from the innermost. */
function nested(depth: number): Buffer {
  const all = Buffer.alloc(5 * depth);
  let start = all.length;
  for (let i = 0; i < depth; i++) {
    const made = header(0x30, all.length - start);
    start -= made.length;
    made.copy(all, start);
  }
  return all.subarray(start);
}

function header(tag: number, length: number): Buffer {
  if (length < 0x80) return Buffer.from([tag, length]);
  const octets = Buffer.from(length.toString(16).padStart(length < 0x100 ? 2 : length < 0x10000 ? 4 : 6, "0"), "hex");
  return Buffer.concat([Buffer.from([tag, 0x80 | octets.length]), octets]);
}

/** Elements of the sample again and again, up to 80 KiB. */
function repeated(bytes: Buffer, roll: Roll): Buffer {
  const all = elements(bytes);
  const { start, end } = all[roll(all.length)]!;
  const one = bytes.subarray(start, end);
  return Buffer.alloc(one.length * (1 + roll(Math.ceil(size(roll, 80_000) / one.length))), one);
}

/** Puts octets into a constructed element and mends the lengths of all around it, so that a parser gets to them. */
function inside(bytes: Buffer, roll: Roll, insert: Buffer): Buffer {
  const all = elements(bytes).filter(({ constructed }) => constructed);
  const target = all[roll(Math.max(1, all.length))];
  if (target === undefined) return splice(bytes, roll(bytes.length), 0, insert);
  const around = all.filter(({ start, end }) => start <= target.start && end >= target.end).reverse();
  let content = Buffer.concat([bytes.subarray(target.content, target.end), insert]);
  for (const [i, { start, end, content: contentStart }] of around.entries()) {
    const inner = around[i - 1];
    if (inner !== undefined)
      content = Buffer.concat([bytes.subarray(contentStart, inner.start), content, bytes.subarray(inner.end, end)]);
    content = Buffer.concat([header(bytes[start]!, content.length), content]);
  }
  const outermost = around.at(-1)!;
  return Buffer.concat([bytes.subarray(0, outermost.start), content, bytes.subarray(outermost.end)]);
}

interface Place {
  start: number;
  content: number;
  end: number;
  constructed: boolean;
}

/** Every element of (nearly) well-formed DER, outer ones first. */
function elements(bytes: Buffer): Place[] {
  const found: Place[] = [];
  const waiting: [number, number][] = [[0, bytes.length]];
  for (let next = waiting.pop(); next !== undefined && found.length < 80; next = waiting.pop()) {
    const [start, limit] = next;
    if (start + 2 > limit) continue;
    const first = bytes[start + 1]!;
    const octets = first > 0x80 && first < 0x85 ? first & 0x7f : 0;
    if (start + 2 + octets > limit) continue;
    const length = octets === 0 ? first : bytes.readUIntBE(start + 2, octets);
    const content = start + 2 + octets;
    const end = Math.min(limit, content + length);
    const constructed = (bytes[start]! & 0x20) !== 0;
    found.push({ start, content, end, constructed });
    waiting.push([end, limit]);
    if (constructed) waiting.push([content, end]);
  }
  return found.length > 0
    ? found.sort((a, b) => a.start - b.start)
    : [{ start: 0, content: 0, end: bytes.length, constructed: false }];
}
