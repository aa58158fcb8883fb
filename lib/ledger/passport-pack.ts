/**
 * Writes a passport so that each thing is in it once (docs/passport.md, "Packed values"). Only what unpacks to the very
 * bytes that were logged is packed, so nothing here decides what is evidence.
 */
import { equalBytes, fromHex, fromUtf8, toBase64, toHex, utf8 } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";
import { canonicalJson } from "../domain/json.ts";
import { parseDsse, PAYLOAD_TYPES, type OpenedDsse } from "../records/dsse.ts";
import type { Passport } from "../records/passport.ts";
import { parseEntry, type AnyAct } from "../records/statement.ts";
import { parseCheckpoint } from "./checkpoint.ts";
import { parseNote } from "./note.ts";
import type { PassportEvidence } from "./passport-evidence.ts";
import { ProofWriter } from "./proof-nodes.ts";
import { leafHash } from "./tree.ts";

type JsonObject = { [key: string]: Json };
type Json = null | boolean | number | string | Json[] | JsonObject;

const HASH = /^[0-9a-f]{64}$/;
const isHash = (text: string): boolean => text.length === 64 && HASH.test(text);
/** A shorter string costs no more where it is than as a reference. */
const WORTH = 8;

/**
 * @param root the DER of the pinned root, which a verifier has already
 * @throws CountersignError `act-invalid`, `envelope-invalid` for an entry that is no act
 */
export function packPassport(evidence: PassportEvidence, root: Uint8Array): Passport {
  const acts = evidence.acts.map(({ entry, read }) => read?.parsed ?? parseEntry(entry));
  const manifests = evidence.manifests.map((bytes) => remembered(opened, bytes, () => openCanonical(bytes) ?? bytes));
  const chains = evidence.chains.map(({ certificates }) => certificates.map(toBase64));
  const pack = new Packer(toBase64(root));
  for (const der of chains.flat()) pack.tally([der]);
  for (const { act } of acts) pack.tally(remembered(candidates, act, () => candidatesOf(act)));
  for (const one of manifests) {
    if (!(one instanceof Uint8Array)) pack.tally(remembered(candidates, one, () => candidatesOf(one.payload)));
  }
  const logs = new Map(
    evidence.logs.map(({ origin, checkpoint }, log) => [origin, { log, proofs: new ProofWriter(sizeOf(checkpoint)) }]),
  );
  return {
    schema: 2,
    device: evidence.device,
    policySha256: evidence.policySha256,
    logs: evidence.logs,
    chains: evidence.chains.map(({ purpose }, i) => ({
      purpose,
      certificates: chains[i]!.map((der) => pack.text(der)),
    })),
    acts: evidence.acts.map(({ origin, index, entry, path, read }, i) => {
      const { act, dsse } = acts[i]!;
      const place = logs.get(origin);
      if (place === undefined) throw new CountersignError("internal", `the passport has no checkpoint of ${origin}`);
      const packed = {
        log: place.log,
        index,
        ...pack.act(act),
        ...(dsse ? { signatures: pack.signatures(dsse) } : {}),
        path: pack.runs(place.proofs.cut(index, path).map(toHex)),
      };
      pack.placed(origin, read?.leafHash ?? toHex(leafHash(entry)), i);
      return packed;
    }),
    manifests: manifests.map((one) =>
      one instanceof Uint8Array
        ? { dsse: toBase64(one) }
        : { payload: pack.object(one.payload), signatures: pack.signatures(one.dsse) },
    ),
    openings: [...evidence.openings],
    hashes: pack.hashes(),
    values: pack.values(),
  };
}

function sizeOf(note: string): number {
  return parseCheckpoint(parseNote(utf8(note)).text).size;
}

/** The payload of a manifest's envelope, where both are canonical JSON. */
function openCanonical(bytes: Uint8Array): OpenedManifest | undefined {
  const dsse = parseDsse(bytes, PAYLOAD_TYPES.manifest);
  const payload = JSON.parse(fromUtf8(dsse.payload)) as JsonObject;
  const same = equalBytes(canonicalJson(dsse.envelope), bytes) && equalBytes(canonicalJson(payload), dsse.payload);
  return same ? { payload, dsse } : undefined;
}

interface OpenedManifest {
  readonly payload: JsonObject;
  readonly dsse: OpenedDsse;
}
const opened = new WeakMap<Uint8Array, OpenedManifest | Uint8Array>();
const candidates = new WeakMap<object, readonly Candidate[]>();

/** What is worth a place of its own if it recurs: a text, or a keyset with the texts in it. */
type Candidate = string | { readonly key: string; readonly inner: readonly Candidate[] };

function candidatesOf(value: unknown): Candidate[] {
  if (typeof value === "string") return value.length >= WORTH && !isHash(value) ? [value] : [];
  if (value === null || typeof value !== "object") return [];
  return Object.entries(value as JsonObject).flatMap(([name, item]) =>
    // The one object that recurs as a whole: a grant pins the keyset that its child published.
    name === "keyset" && isObject(item) ? [{ key: keyOf(item), inner: candidatesOf(item) }] : candidatesOf(item),
  );
}

/** Gives every hash and every recurring value a place as it is first met, and refers to it from then on. */
class Packer {
  readonly #met = new Set<string>();
  readonly #recurring = new Set<string>();
  readonly #hashes = new Map<string, number>();
  readonly #places = new Map<string, number>();
  readonly #values: Json[] = [];
  readonly #acts = new Map<string, number>();

  readonly #root: string;

  constructor(root: string) {
    this.#root = root;
  }

  tally(found: readonly Candidate[]): void {
    for (const one of found) {
      const key = typeof one === "string" ? one : one.key;
      if (this.#met.has(key)) this.#recurring.add(key);
      // What is in it is there once, however often it recurs.
      else if (typeof one !== "string") this.tally(one.inner);
      this.#met.add(key);
    }
  }

  text(value: string): string {
    if (isHash(value)) return `#${this.#hash(value)}`;
    if (value === this.#root) return "$root";
    const recurs = this.#recurring.has(value) || /^[#$@]/.test(value);
    return recurs ? this.#shared(value, value) : value;
  }

  /** From here on, what names this act is `@i`. */
  placed(origin: string, hash: string, i: number): void {
    this.#acts.set(`${origin} ${hash}`, i);
  }

  act({ type, subject, time, retryKey, grant, prev, blobs, fields }: AnyAct) {
    const [about, more] = subject;
    if (about === undefined || more) throw new CountersignError("act-invalid", "an act is about one subject");
    const packed = this.value({ grant: grant ?? null, prev, blobs } as unknown as JsonObject) as {
      grant: string | JsonObject | null;
      prev: Json[];
      blobs: Json[];
    };
    return {
      type,
      subject: [this.text(about.name), this.text(about.digest.sha256)] as [string, string],
      time,
      retryKey: this.text(retryKey),
      ...(packed.grant === null ? {} : { grant: packed.grant }),
      ...(packed.prev.length === 0 ? {} : { prev: packed.prev }),
      ...(packed.blobs.length === 0 ? {} : { blobs: packed.blobs }),
      fields: this.object(fields as unknown as JsonObject),
    };
  }

  value(value: Json): Json {
    if (typeof value === "string") return this.text(value);
    if (Array.isArray(value)) return this.#list(value);
    return isObject(value) ? (this.#reference(value) ?? this.object(value)) : value;
  }

  /** An act that is named by origin and leaf hash and nothing else. */
  #reference(value: JsonObject): string | undefined {
    const { origin, leafHash: hash, ...more } = value;
    if (typeof origin !== "string" || typeof hash !== "string") return undefined;
    const i = this.#acts.get(`${origin} ${hash}`);
    return i === undefined || Object.keys(more).length > 0 ? undefined : `@${i}`;
  }

  object(value: JsonObject): JsonObject {
    const out: JsonObject = {};
    for (const [name, item] of Object.entries(value)) {
      const key = name === "keyset" && isObject(item) ? keyOf(item) : undefined;
      out[name] = key !== undefined && this.#recurring.has(key) ? this.#shared(key, item) : this.value(item);
    }
    return out;
  }

  /** Hashes that follow one another in the table are one item, `#first-last`. */
  #list(values: readonly Json[]): Json[] {
    if (values.length < 2 || !values.every((item) => typeof item === "string" && isHash(item))) {
      return values.map((item) => this.value(item));
    }
    const out: Json[] = [];
    const runs = this.runs(values as string[]);
    for (let i = 0; i < runs.length; i += 2) {
      const [first, count] = [runs[i]!, runs[i + 1]!];
      out.push(count === 1 ? `#${first}` : `#${first}-${first + count - 1}`);
    }
    return out;
  }

  signatures({ envelope }: OpenedDsse): [string, string][] {
    return envelope.signatures.map(({ keyid, sig }) => [this.text(keyid), sig]);
  }

  /** Hashes as runs of the table: first position, length, first position, length... */
  runs(path: readonly string[]): number[] {
    const out: number[] = [];
    for (const hex of path) {
      const at = this.#hash(hex);
      const last = out.length - 2;
      if (last >= 0 && out[last]! + out[last + 1]! === at) out[last + 1]!++;
      else out.push(at, 1);
    }
    return out;
  }

  hashes(): string {
    return toBase64(fromHex([...this.#hashes.keys()].join("")));
  }

  values(): Json[] {
    return this.#values;
  }

  #hash(hex: string): number {
    const at = this.#hashes.get(hex) ?? this.#hashes.size;
    this.#hashes.set(hex, at);
    return at;
  }

  #shared(key: string, value: Json): string {
    let at = this.#places.get(key);
    if (at === undefined) {
      // A value refers to those before it only.
      const packed = isObject(value) ? this.object(value) : value;
      at = this.#values.push(packed) - 1;
      this.#places.set(key, at);
    }
    return `$${at}`;
  }
}

function isObject(value: Json | undefined): value is JsonObject {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

/** No string of an act begins so: it isn't one that could be counted beside it. */
function keyOf(value: JsonObject): string {
  return remembered(keys, value, () => `\u0000${JSON.stringify(value)}`);
}
const keys = new WeakMap<object, string>();

/** What most passports of a lot share is looked at once: an act, a keyset, a batch. */
function remembered<K extends object, V>(known: WeakMap<K, V>, key: K, make: () => V): V {
  let value = known.get(key);
  if (value === undefined) known.set(key, (value = make()));
  return value;
}

/** The bytes of a passport's file. */
export function formatPassport(passport: Passport): Uint8Array {
  return utf8(`${JSON.stringify(passport)}\n`);
}
