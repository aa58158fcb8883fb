import fc from "fast-check";
import * as der from "../../lib/pki/der-write.ts";
import { OID } from "../../lib/pki/oids.ts";

interface Node {
  tag: number;
  /** Of a constructed element, or of an OCTET STRING that holds one */
  children?: Node[];
  content: Uint8Array;
}

export interface Break {
  /** Which element, counted through all, modulo their number */
  readonly place: number;
  readonly operation: number;
  readonly dice: Dice;
}

function read(bytes: Uint8Array): Node[] {
  const nodes: Node[] = [];
  for (let at = 0; at < bytes.length;) {
    const tag = bytes[at]!;
    const first = bytes[at + 1]!;
    const octets = first > 0x80 ? first & 0x7f : 0;
    let length = octets === 0 ? first : 0;
    for (let i = 0; i < octets; i++) length = length * 256 + bytes[at + 2 + i]!;
    const start = at + 2 + octets;
    if (first === 0x80 || start + length > bytes.length) throw new Error("not DER");
    const content = bytes.subarray(start, start + length);
    nodes.push({ tag, content, ...childrenOf(tag, content) });
    at = start + length;
  }
  return nodes;
}

function childrenOf(tag: number, content: Uint8Array): { children?: Node[] } {
  if ((tag & 0x20) === 0 && !(tag === 0x04 && (content[0] === 0x30 || content[0] === 0x03))) return {};
  try {
    return { children: read(content) };
  } catch {
    return {};
  }
}

function write({ tag, children, content }: Node): Uint8Array {
  return der.encodeElement(tag, children === undefined ? content : join(children));
}

function join(nodes: readonly Node[]): Uint8Array {
  return new Uint8Array(Buffer.concat(nodes.map(write)));
}

interface Place {
  node: Node;
  siblings: Node[];
  path: string;
}

function places(nodes: Node[], path: string): Place[] {
  return nodes.flatMap((node, i) => [
    { node, siblings: nodes, path: `${path}/${i}` },
    ...(node.children === undefined ? [] : places(node.children, `${path}/${i}`)),
  ]);
}

const TAGS = [
  0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x0a, 0x0c, 0x12, 0x13, 0x14, 0x16, 0x17, 0x18, 0x1a, 0x1b, 0x1c, 0x1e, 0x30,
  0x31, 0x80, 0x81, 0x82, 0x83, 0x86, 0x87, 0x88, 0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5,
];
const OIDS = [...Object.values(OID), "2.5.29.9", "2.5.29.16", "1.3.6.1.5.5.7.1.11", "1.2.3.4"].map((one) =>
  der.oid(one).subarray(2),
);

type Dice = readonly [number, number, number];
const OPERATIONS: readonly [string, (place: Place, dice: Dice) => void][] = [
  ["removed", ({ node, siblings }) => void siblings.splice(siblings.indexOf(node), 1)],
  ["doubled", ({ node, siblings }) => void siblings.splice(siblings.indexOf(node), 0, node)],
  [
    "swapped",
    ({ node, siblings }, [a]) => {
      const from = siblings.indexOf(node);
      const to = a % siblings.length;
      [siblings[from], siblings[to]] = [siblings[to]!, siblings[from]!];
    },
  ],
  ["of another tag", ({ node }, [a]) => void (node.tag = TAGS[a % TAGS.length]!)],
  ["emptied", ({ node }) => void (delete node.children, (node.content = new Uint8Array()))],
  [
    "followed by an element",
    ({ node, siblings }, [a, b]) =>
      void siblings.splice(siblings.indexOf(node) + 1, 0, {
        tag: TAGS[a % TAGS.length]!,
        content: new Uint8Array(b % 3).fill(b),
      }),
  ],
  [
    "with more inside",
    ({ node }, [a, b]) => {
      const added = { tag: TAGS[a % TAGS.length]!, content: new Uint8Array(b % 3).fill(b) };
      if (node.children === undefined) node.content = Uint8Array.of(...node.content, a & 0xff);
      else node.children.push(added);
    },
  ],
  [
    "with a bit turned",
    ({ node }, [a, b]) => {
      if (node.children !== undefined || node.content.length === 0) return void (node.tag ^= 1 << (a & 7));
      node.content = node.content.slice();
      // Not the bit between capital and small letters: those are the same name, to some
      node.content[b % node.content.length]! ^= 1 << [0, 1, 2, 3, 4, 6, 7][a % 7]!;
    },
  ],
  [
    "with an octet more in front",
    ({ node }, [a]) => {
      if (node.children === undefined) node.content = Uint8Array.of([0, 0xff, 0x80, 1][a & 3]!, ...node.content);
    },
  ],
  [
    "cut",
    ({ node }) => {
      if (node.children === undefined) node.content = node.content.slice(0, -1);
      else node.children.pop();
    },
  ],
  [
    "of another number",
    ({ node }, [a]) => {
      if (node.tag === 0x06) node.content = OIDS[a % OIDS.length]!;
      else if (node.children === undefined) node.content = Uint8Array.of(a & 0xff);
    },
  ],
  [
    "wrapped",
    ({ node }, [a]) => {
      const inner = { ...node };
      node.tag = TAGS[a % TAGS.length]! | 0x20;
      node.children = [inner];
    },
  ],
  [
    "inside out",
    ({ node, siblings }) => {
      if (node.children !== undefined) siblings.splice(siblings.indexOf(node), 1, ...node.children);
    },
  ],
];

/** One or two breaks. */
export const someBreaks: fc.Arbitrary<Break[]> = fc.array(
  fc.record({
    place: fc.nat({ max: 9999 }),
    operation: fc.nat({ max: OPERATIONS.length - 1 }),
    dice: fc.tuple(fc.nat({ max: 999 }), fc.nat({ max: 999 }), fc.nat({ max: 999 })),
  }),
  { minLength: 1, maxLength: 2 },
);

/**
 * DER of which elements were removed, doubled, swapped, retagged, cut and the like, the lengths around them mended: what
 * gets past a parser's frame and to its rules.
 * @param element one constructed element, itself left as it is
 */
export function broken(element: Uint8Array, breaks: readonly Break[]): { bytes: Uint8Array; story: string } {
  const tree = read(element);
  const story = breaks.map(({ place, operation, dice }) => {
    const all = places(tree[0]!.children!, "");
    const found = all[place % all.length];
    if (found === undefined) return "nothing left";
    const [name, apply] = OPERATIONS[operation]!;
    apply(found, dice);
    return `${found.path} ${name} (${dice.join(" ")})`;
  });
  return { bytes: join(tree), story: story.join(" + ") };
}
