import { equalBytes, fromHex, toHex } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { canonicalJson } from "../../lib/domain/json.ts";
import type { Signer } from "../../lib/domain/signing.ts";
import { leafHash } from "../../lib/ledger/tree.ts";
import { ACT_CLASSES, type ActFields, type ActType } from "../../lib/records/acts.ts";
import { PAYLOAD_TYPES, signDsse } from "../../lib/records/dsse.ts";
import { buildLine } from "../../lib/records/line-statement.ts";
import type { ActRef, BlobRef, PrevRef } from "../../lib/records/primitives.ts";
import { parseStatement, type AnyAct, type Subject } from "../../lib/records/statement.ts";
import { inTransaction, type Db, type Tx } from "../../store/db.ts";
import {
  insertLines,
  insertStatement,
  readActs,
  storeEntry,
  unknownLeafHashes,
  type StoredAct,
} from "../../store/ledger.ts";
import type { Vouched } from "./admission.ts";
import { Announcer } from "./announcer.ts";
import { InclusionWatch, type Included, type WaitOptions } from "./inclusion.ts";
import { nodeSha256, sha256Hex } from "./sha256.ts";

/** An act as a caller asks for it. `workflowId` and `stepKey` name it for good: asking again gives the first answer. */
export interface ActDraft<T extends ActType = ActType> {
  readonly type: T;
  readonly workflowId: string;
  readonly stepKey: string;
  /** the claimed time, RFC 3339 UTC with milliseconds; default now. The first recording's time stands. */
  readonly time?: string;
  readonly subject: readonly Subject[];
  readonly grant?: ActRef;
  readonly prev?: readonly PrevRef[];
  readonly blobs?: readonly BlobRef[];
  readonly fields: ActFields<T>;
}
/** Any draft, discriminated by `type`. */
export type AnyActDraft = { [T in ActType]: ActDraft<T> }[ActType];

export interface RecordedAct {
  /** hex */
  readonly retryKey: string;
  /** hex; known before the act is sequenced, since the bytes are fixed */
  readonly leafHash: string;
  /** the ledger entry's exact bytes */
  readonly entry: Uint8Array;
  /** false when the act was there already */
  readonly first: boolean;
}

/**
 * SHA-256 of the canonical JSON array [log origin, workflow id, step key], hex. Never of a run id or an attempt: a retry
 * must meet what it did before.
 */
export function retryKeyOf(origin: string, workflowId: string, stepKey: string): string {
  return sha256Hex(canonicalJson([origin, workflowId, stepKey]));
}

/** Line records between their commit and the sequencer: more, or more bytes, are simply read again. */
const REMEMBERED = 32_768;
const REMEMBERED_BYTES = 32 << 20;

/**
 * Puts one party's acts on the way into its ledger. Everything here is idempotent by retry key: the same content gives
 * the stored act, other content `act-conflict`. Safe to use from many processes at once.
 */
export class Acts {
  readonly origin: string;
  readonly party: string;
  readonly #db: Db;
  readonly #now: () => Date;
  readonly #watch: InclusionWatch;
  readonly #announcer: Announcer;
  /** line records that were built here, by leaf hash (hex), the newest last */
  readonly #built = new Map<string, Vouched>();
  #builtBytes = 0;

  /** @param options.wake wakes the sequencer of this process, once its acts are durable: see `Sequencer.wake` */
  constructor(options: { db: Db; origin: string; party: string; now?: () => Date; wake?: () => boolean }) {
    this.#db = options.db;
    this.origin = options.origin;
    this.party = options.party;
    this.#now = options.now ?? (() => new Date());
    this.#watch = new InclusionWatch(options.db);
    this.#announcer = new Announcer(options.db, options.wake);
  }

  /** The line record with this leaf hash (hex), if this object built and validated it not long ago. */
  vouches(leafHash: string): Vouched | undefined {
    return this.#built.get(leafHash);
  }

  /** These leaf hashes (hex) have their place in the tree: nobody asks for them any more. */
  forget(leafHashes: Iterable<string>): void {
    for (const hash of leafHashes) {
      this.#builtBytes -= this.#built.get(hash)?.entry.length ?? 0;
      this.#built.delete(hash);
    }
  }

  #remember(leafHash: string, built: Vouched): void {
    this.forget([leafHash]);
    this.#built.set(leafHash, built);
    this.#builtBytes += built.entry.length;
    for (const oldest of this.#built.keys()) {
      if (this.#built.size <= REMEMBERED && this.#builtBytes <= REMEMBERED_BYTES) break;
      this.forget([oldest]);
    }
  }

  async recordLine<T extends ActType>(tx: Tx, draft: ActDraft<T>): Promise<RecordedAct> {
    return (await this.recordLines(tx, [draft as unknown as AnyActDraft]))[0]!;
  }

  /**
   * Records line records in the caller's transaction: they are durable, and queued, when it commits. Sequenced in the
   * given order; a `prev` may name an earlier draft of the same call. Gives the acts in the given order.
   * @throws CountersignError `act-invalid` (malformed, not a line record, or an own `prev` that isn't recorded),
   *   `act-conflict` (the retry key holds other content)
   */
  async recordLines(tx: Tx, drafts: readonly AnyActDraft[]): Promise<RecordedAct[]> {
    if (drafts.length === 0) return [];
    const time = this.#now().toISOString();
    const lines = drafts.map((draft) => {
      assertClass(draft.type, "line");
      const retryKey = retryKeyOf(this.origin, draft.workflowId, draft.stepKey);
      const entry = this.#statement(draft, retryKey, draft.time ?? time);
      const hash = leafHash(entry, nodeSha256);
      const prev = this.#ownPrev(draft);
      return { act: { retryKey, leafHash: toHex(hash), entry, first: true }, hash, prev, draft };
    });
    if (new Set(lines.map(({ act }) => act.retryKey)).size !== lines.length) {
      throw new CountersignError("act-conflict", "two drafts of one call have the same workflow id and step key");
    }
    await this.#assertPrev(
      tx,
      lines.map(({ prev, act }) => ({ prev, leafHash: act.leafHash })),
    );
    for (const { act, draft } of lines) {
      this.#remember(act.leafHash, { type: draft.type, grant: draft.grant, entry: act.entry });
    }
    const known = await insertLines(
      tx,
      lines.map(({ act, hash, prev, draft }) => ({
        retryKey: hashBytes(act.retryKey),
        type: draft.type,
        entry: act.entry,
        leafHash: hash,
        prev: prev.map(hashBytes),
      })),
      this.#announcer.announce,
    );
    if (known.size === 0) return lines.map(({ act }) => act);
    const stored = new Map<string, StoredAct>();
    for (const act of await readActs(tx, [...known].map(hashBytes))) stored.set(toHex(act.retryKey), act);
    return lines.map(({ act, draft }) => {
      if (!known.has(act.retryKey)) return act;
      const earlier = stored.get(act.retryKey);
      this.#assertSame(draft, act.retryKey, earlier?.entry);
      return recorded(earlier!, act.retryKey);
    });
  }

  /**
   * Records a signed act in three steps, each of which a retry finds done: its statement is fixed and committed, signed,
   * and the first envelope stored and queued. So a crash can sign twice, but only ever the same bytes, and one envelope
   * counts. `within` runs in the transaction that stores the envelope, and only there.
   * @throws CountersignError `act-invalid`, `act-conflict`, and what the signer throws
   */
  async recordSigned<T extends ActType>(
    draft: ActDraft<T>,
    signer: Signer,
    within?: (tx: Tx, act: RecordedAct) => Promise<void>,
  ): Promise<RecordedAct> {
    assertClass(draft.type, "signed");
    const any = draft as unknown as AnyActDraft;
    const retryKey = retryKeyOf(this.origin, draft.workflowId, draft.stepKey);
    const key = fromHex(retryKey);
    let act = (await readActs(this.#db, [key]))[0];
    if (act === undefined) {
      const statement = this.#statement(any, retryKey, draft.time ?? this.#now().toISOString());
      const prev = this.#ownPrev(any);
      await this.#assertPrev(this.#db, [{ prev }]);
      await insertStatement(this.#db, { retryKey: key, type: draft.type, statement, prev: prev.map(hashBytes) });
      act = (await readActs(this.#db, [key]))[0];
    }
    this.#assertSame(any, retryKey, act?.statement);
    if (act!.entry !== null) return recorded(act!, retryKey);

    const keyId = sha256Hex(signer.spki);
    const entry = await signDsse(PAYLOAD_TYPES.statement, act!.statement!, signer, keyId);
    const result: RecordedAct = { retryKey, leafHash: toHex(leafHash(entry, nodeSha256)), entry, first: true };
    const won = await inTransaction(this.#db, async (tx) => {
      const stored = { retryKey: key, entry, leafHash: fromHex(result.leafHash) };
      if (!(await storeEntry(tx, stored, this.#announcer.announce))) return false;
      await within?.(tx, result);
      return true;
    });
    return won ? result : recorded((await readActs(this.#db, [key]))[0]!, retryKey);
  }

  /** The act that is stored under a draft's name, if it is recorded (and, for a signed act, signed). */
  async find(workflowId: string, stepKey: string): Promise<RecordedAct | undefined> {
    const retryKey = retryKeyOf(this.origin, workflowId, stepKey);
    const act = (await readActs(this.#db, [fromHex(retryKey)]))[0];
    return act === undefined || act.entry === null ? undefined : recorded(act, retryKey);
  }

  /**
   * Resolves, in the given order, once a signed and stored checkpoint covers all of them.
   * @throws CountersignError `timeout`, `not-found` (no such act was committed), `act-invalid` (the sequencer refused it)
   */
  waitIncluded(retryKeys: readonly string[], options: WaitOptions): Promise<Included[]> {
    return this.#watch.wait(retryKeys, options);
  }

  /** Ends the waiting of everybody (`timeout`) and closes the connection behind it. */
  close(): void {
    this.#watch.close();
  }

  #statement(draft: AnyActDraft, retryKey: string, time: string): Uint8Array {
    const { type, subject, grant, prev, blobs, fields } = draft;
    return buildLine({
      type,
      subject: [...subject],
      origin: this.origin,
      party: this.party,
      retryKey,
      time,
      ...(grant === undefined ? {} : { grant }),
      prev: [...(prev ?? [])],
      blobs: [...(blobs ?? [])],
      fields,
    } as AnyAct);
  }

  /** Leaf hashes of this ledger, hex. */
  #ownPrev(draft: AnyActDraft): string[] {
    return (draft.prev ?? []).filter((ref) => ref.origin === this.origin).map((ref) => ref.leafHash);
  }

  async #assertPrev(db: Db | Tx, acts: readonly { prev: readonly string[]; leafHash?: string }[]) {
    const earlier = new Set<string>();
    const asked: string[] = [];
    for (const act of acts) {
      for (const hash of act.prev) if (!earlier.has(hash)) asked.push(hash);
      if (act.leafHash !== undefined) earlier.add(act.leafHash);
    }
    for (const missing of await unknownLeafHashes(db, asked)) {
      throw new CountersignError(
        "act-invalid",
        `the previous act ${missing} isn't in the ledger ${this.origin}: record it before the act that follows it`,
      );
    }
  }

  /** Compares everything but the claimed time, which the first recording fixed. */
  #assertSame(draft: AnyActDraft, retryKey: string, stored: Uint8Array | null | undefined): void {
    if (stored != null) {
      const again = this.#statement(draft, retryKey, parseStatement(stored).time);
      if (equalBytes(again, stored)) return;
    }
    throw new CountersignError(
      "act-conflict",
      `step ${draft.stepKey} of ${draft.workflowId} already recorded another act: the first one stands`,
      { details: { retryKey } },
    );
  }
}

/** Of a SHA-256 value that this program wrote as hex, or that a schema has passed. */
const hashBytes = (hex: string): Uint8Array => Buffer.from(hex, "hex");

function recorded(act: StoredAct, retryKey: string): RecordedAct {
  return { retryKey, leafHash: toHex(act.leafHash!), entry: act.entry!, first: false };
}

function assertClass(type: ActType, expected: "line" | "signed"): void {
  if (ACT_CLASSES[type].class !== expected) {
    throw new CountersignError("act-invalid", `${type} is a ${ACT_CLASSES[type].class} act, not a ${expected} one`);
  }
}
