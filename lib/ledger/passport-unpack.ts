/** Reads a passport's file: its form, and what its references stand for. Nothing is believed yet: see `verifyPassport`. */
import { fromBase64, fromUtf8, toBase64, toHex } from "../domain/bytes.ts";
import { CountersignError, isCountersignError } from "../domain/errors.ts";
import { canonicalJson } from "../domain/json.ts";
import { PAYLOAD_TYPES } from "../records/dsse.ts";
import { predicateType, STATEMENT_TYPE } from "../records/statement.ts";
import { MAX_PASSPORT_BYTES, passport as passportSchema, type Passport } from "../records/passport.ts";
import type { ActType } from "../records/acts.ts";
import type { ActRef } from "../records/primitives.ts";
import type { PassportEvidence } from "./passport-evidence.ts";
import { MAX_ENTRY_BYTES } from "./tiles.ts";
import { leafHash, MAX_PROOF_HASHES, splitHashes } from "./tree.ts";

const MAX_DEPTH = 16;

/**
 * @param root the DER of the pinned root: the passport doesn't repeat what its verifier has
 * @throws CountersignError `passport-invalid`, saying where
 */
export function parsePassport(bytes: Uint8Array, root: Uint8Array): PassportEvidence {
  if (bytes.length > MAX_PASSPORT_BYTES) {
    throw invalid(`it has ${bytes.length} bytes, the limit is ${MAX_PASSPORT_BYTES}`);
  }
  let value: unknown;
  try {
    value = JSON.parse(fromUtf8(bytes));
  } catch (cause) {
    throw new CountersignError("passport-invalid", "it is not JSON", { cause });
  }
  const parsed = passportSchema.safeParse(value);
  if (parsed.success) return unpackPassport(parsed.data, root);
  const issue = parsed.error.issues[0];
  const where = issue === undefined ? "" : `${issue.path.join(".") || "(top)"}: ${issue.message}`;
  throw new CountersignError("passport-invalid", `it is not a passport: ${where}`, { cause: parsed.error });
}

/** @throws CountersignError `passport-invalid` for a reference to nothing, a value nobody refers to, an act too large */
export function unpackPassport(passport: Passport, root: Uint8Array): PassportEvidence {
  const tables = new Tables(passport, root);
  const evidence: PassportEvidence = {
    device: passport.device,
    policySha256: passport.policySha256,
    chains: passport.chains.map(({ purpose, certificates }, i) => ({
      purpose,
      certificates: certificates.map((packed) => at(`chains.${i}`, () => fromBase64(tables.text(packed)))),
    })),
    logs: passport.logs,
    acts: passport.acts.map(({ log, index, signatures, path, ...content }, i) =>
      at(`acts.${i}`, () => {
        const { origin, party } = passport.logs[log] ?? {};
        if (origin === undefined) throw invalid(`there is no log ${log}`);
        const bytes = tables.bytes(statementOf(content, origin, party));
        const entry = signatures ? tables.envelope(bytes, PAYLOAD_TYPES.statement, signatures) : bytes;
        tables.placed({ origin, leafHash: toHex(leafHash(entry)) });
        return { origin, index, entry, path: tables.path(path) };
      }),
    ),
    manifests: passport.manifests.map((one, i) =>
      at(`manifests.${i}`, () =>
        "dsse" in one
          ? fromBase64(one.dsse)
          : tables.envelope(tables.bytes(one.payload), PAYLOAD_TYPES.manifest, one.signatures),
      ),
    ),
    openings: passport.openings,
  };
  tables.assertUsed();
  return evidence;
}

type PackedAct = Omit<Passport["acts"][number], "log" | "index" | "path" | "signatures">;

/** The packed act as the Statement that it stands for. */
function statementOf({ type, subject, grant, prev, blobs, ...rest }: PackedAct, origin: string, party: unknown) {
  return {
    _type: STATEMENT_TYPE,
    subject: [{ name: subject[0], digest: { sha256: subject[1] } }],
    predicateType: predicateType(type as ActType),
    predicate: {
      ...rest,
      origin,
      party,
      prev: prev ?? [],
      blobs: blobs ?? [],
      ...(grant === undefined ? {} : { grant }),
    },
  };
}

function invalid(message: string, cause?: unknown): CountersignError {
  return new CountersignError("passport-invalid", message, cause === undefined ? {} : { cause });
}

function at<T>(where: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (isCountersignError(error)) throw invalid(`${where}: ${error.message}`, error);
    if (error instanceof RangeError) throw invalid(`${where}: ${error.message}`, error);
    throw error;
  }
}

const HASHES = /^#(0|[1-9][0-9]{0,3})(?:-([1-9][0-9]{0,3}))?$/;
const VALUE = /^\$(0|[1-9][0-9]{0,3})$/;
const ACT = /^@(0|[1-9][0-9]?)$/;

class Tables {
  readonly #hashes: readonly Uint8Array[];
  readonly #values: { readonly value: unknown; readonly size: number }[] = [];
  readonly #root: string;
  readonly #acts: ActRef[] = [];
  readonly #unused = new Set<string>();
  /** bytes that the value in hand may still grow by: a short reference can stand for much */
  #left = 0;

  constructor({ hashes, values }: Passport, root: Uint8Array) {
    this.#root = toBase64(root);
    this.#hashes = at("hashes", () => splitHashes(fromBase64(hashes)));
    for (const i of this.#hashes.keys()) this.#unused.add(`#${i}`);
    for (const i of values.keys()) this.#unused.add(`$${i}`);
    for (const [i, packed] of values.entries()) {
      this.#left = MAX_ENTRY_BYTES;
      // A text is what it says: so one can be there that looks like a reference.
      const value = typeof packed === "string" ? packed : at(`values.${i}`, () => this.#value(packed, 0));
      this.#values.push({ value, size: JSON.stringify(value).length });
    }
  }

  /** Canonical JSON of what a packed object stands for. */
  bytes(packed: unknown): Uint8Array {
    this.#left = MAX_ENTRY_BYTES;
    const bytes = canonicalJson(this.#value(packed, 0));
    if (bytes.length > MAX_ENTRY_BYTES) throw invalid(`it has ${bytes.length} bytes`);
    return bytes;
  }

  /** The next act: those after it name it by its number. */
  placed(act: ActRef): void {
    this.#acts.push(act);
  }

  text(packed: string): string {
    this.#left = MAX_ENTRY_BYTES;
    const value = this.#value(packed, 0);
    if (typeof value !== "string") throw invalid("a reference to an object stands where a text should");
    return value;
  }

  /** The one spelling of an envelope that a ledger takes. */
  envelope(payload: Uint8Array, payloadType: string, signatures: readonly (readonly [string, string])[]): Uint8Array {
    return canonicalJson({
      payload: toBase64(payload),
      payloadType,
      signatures: signatures.map(([keyid, sig]) => ({ keyid: this.text(keyid), sig })),
    });
  }

  path(runs: readonly number[]): Uint8Array[] {
    if (runs.length % 2 !== 0) throw invalid("its path's last run has no length");
    const path: Uint8Array[] = [];
    for (let i = 0; i < runs.length; i += 2) path.push(...this.#run(runs[i]!, runs[i + 1]!));
    return path;
  }

  assertUsed(): void {
    const [unused] = this.#unused;
    if (unused !== undefined) throw invalid(`nothing refers to ${unused}`);
  }

  #run(first: number, count: number): readonly Uint8Array[] {
    if (count < 1 || count > MAX_PROOF_HASHES || first + count > this.#hashes.length) {
      throw invalid(`there are no ${count} hashes from #${first} on`);
    }
    for (let i = first; i < first + count; i++) this.#unused.delete(`#${i}`);
    return this.#hashes.slice(first, first + count);
  }

  #value(packed: unknown, depth: number): unknown {
    if (depth > MAX_DEPTH) throw invalid("it is nested too deep");
    if (typeof packed === "string") return this.#text(packed);
    if (Array.isArray(packed)) return (packed as unknown[]).flatMap((item) => this.#item(item, depth + 1));
    if (packed === null || typeof packed !== "object") return packed;
    return Object.fromEntries(Object.entries(packed).map(([name, item]) => [name, this.#value(item, depth + 1)]));
  }

  /** In a list a run of hashes stands for as many items. */
  #item(packed: unknown, depth: number): unknown[] {
    const [, first, last] = (typeof packed === "string" && HASHES.exec(packed)) || [];
    if (first === undefined || last === undefined) return [this.#value(packed, depth)];
    const run = this.#run(Number(first), Number(last) - Number(first) + 1);
    this.#spend(run.length * 64);
    return run.map(toHex);
  }

  #text(packed: string): unknown {
    if (packed.startsWith("#")) {
      const [, first, last] = HASHES.exec(packed) ?? [];
      if (first === undefined || last !== undefined) throw invalid(`${packed.slice(0, 20)} names no hash`);
      this.#spend(64);
      return toHex(this.#run(Number(first), 1)[0]!);
    }
    if (packed.startsWith("@")) {
      const act = this.#acts[Number(ACT.exec(packed)?.[1] ?? -1)];
      if (!act) throw invalid(`${packed.slice(0, 20)} names no act before it`);
      this.#spend(256);
      return { ...act };
    }
    if (!packed.startsWith("$")) return packed;
    if (packed === "$root") {
      this.#spend(this.#root.length);
      return this.#root;
    }
    const found = this.#values[Number(VALUE.exec(packed)?.[1] ?? -1)];
    if (!found) throw invalid(`${packed.slice(0, 20)} names no value`);
    this.#unused.delete(packed);
    this.#spend(found.size);
    return found.value;
  }

  #spend(bytes: number): void {
    this.#left -= bytes;
    if (this.#left < 0) throw invalid(`it stands for more than ${MAX_ENTRY_BYTES} bytes`);
  }
}
