import { expect } from "vitest";
import { nodeVerify } from "../../../hsm/verify.ts";
import { fromUtf8, toHex } from "../../../lib/domain/bytes.ts";
import type { Signer } from "../../../lib/domain/signing.ts";
import { auditLog } from "../../../lib/ledger/audit-log.ts";
import { parseCheckpoint } from "../../../lib/ledger/checkpoint.ts";
import { ed25519Raw, KEY_TYPE, noteKey, type NoteKey } from "../../../lib/ledger/note.ts";
import { actKey } from "../../../services/ledger/admission.ts";
import { Acts, type ActDraft } from "../../../services/ledger/acts.ts";
import { createLedger, Sequencer, type SequencerOptions } from "../../../services/ledger/sequencer.ts";
import { databaseSource } from "../../../services/ledger/serve.ts";
import { nodeSha256 } from "../../../services/ledger/sha256.ts";
import { connect, inTransaction, migrate, type Db } from "../../../store/db.ts";
import { readHead } from "../../../store/ledger.ts";
import { testKey } from "../memory-log.ts";

export const ORIGIN = "factory-y.example/log";

const digest = (n: number): string => n.toString(16).padStart(64, "0");

/**
 * A ledger whose every signature is watched: at the moment its key is asked, what is to be signed must be durable, as
 * another connection sees it; and no size is ever signed with two roots, whether the note was stored or lost.
 */
export class LedgerUnderFault {
  readonly db: Db;
  readonly acts: Acts;
  readonly key: NoteKey;
  /** roots (hex) by size, of every signature that was ever made */
  readonly signed = new Map<number, Set<string>>();
  /** what a signature was asked for before it was durable */
  readonly early: string[] = [];
  readonly errors: unknown[] = [];
  /** notes that were handed on as published */
  readonly published: { size: number; note: Uint8Array }[] = [];
  readonly act = testKey("p256");
  readonly log = testKey("ed25519");
  readonly #signer: Signer;
  readonly #running: Sequencer[] = [];
  #drafts = 0;

  private constructor(db: Db) {
    this.db = db;
    this.acts = new Acts({ db, origin: ORIGIN, party: "factory-y" });
    this.key = noteKey(ORIGIN, KEY_TYPE.ed25519, ed25519Raw(this.log.spki));
    this.#signer = {
      spki: this.log.spki,
      algorithm: this.log.algorithm,
      sign: (message) => this.#watchedSign(message),
    };
  }

  static async create(url: string): Promise<LedgerUnderFault> {
    const db = connect(url, { max: 16 });
    await migrate(db);
    const site = new LedgerUnderFault(db);
    await createLedger({ db, origin: ORIGIN, signer: site.#signer });
    return site;
  }

  async #watchedSign(message: Uint8Array): Promise<Uint8Array> {
    const { size, root } = parseCheckpoint(fromUtf8(message));
    this.sawSignature(size, toHex(root));
    const head = await readHead(this.db);
    const durable =
      head !== undefined && (head.size > size || (head.size === size && toHex(head.root) === toHex(root)));
    if (!durable) this.early.push(`size ${size}, with ${head?.size} durable`);
    return this.log.sign(message);
  }

  sawSignature(size: number, root: string): void {
    this.signed.set(size, (this.signed.get(size) ?? new Set()).add(root));
  }

  /** @param db the connections that the faults are on */
  start(db: Db, more: Partial<SequencerOptions> = {}): Sequencer {
    const sequencer = new Sequencer({
      db,
      origin: ORIGIN,
      signer: this.#signer,
      actKeys: () => [actKey(this.act.spki, this.act.algorithm)],
      verify: nodeVerify,
      intervalMs: 1,
      onError: (error) => this.errors.push(error),
      onCheckpoint: (checkpoint) => this.published.push(checkpoint),
      ...more,
    });
    this.#running.push(sequencer);
    sequencer.start();
    return sequencer;
  }

  async stopAll(): Promise<void> {
    await Promise.all(this.#running.splice(0).map((sequencer) => sequencer.stop()));
  }

  draft(more: Partial<ActDraft<"intent">> = {}): ActDraft<"intent"> {
    const n = ++this.#drafts;
    return {
      type: "intent",
      workflowId: "lot/L1",
      stepKey: `intent-${n}`,
      subject: [{ name: `batch ${n}`, digest: { sha256: digest(n) } }],
      fields: { lot: "L1", manifest: digest(n), tbsRoot: digest(n + 1), count: 1 },
      ...more,
    };
  }
  signedDraft(): ActDraft<"hub-registered"> {
    const n = ++this.#drafts;
    return {
      type: "hub-registered",
      workflowId: "hub/H1",
      stepKey: `${n}`,
      subject: [{ name: "factory-y", digest: { sha256: digest(n) } }],
      fields: { hub: "hub", caSha256: digest(n), codeSha256: digest(n) },
    };
  }

  /** Two lines, the second after the first, and a signed act. Gives their retry keys. */
  async record(db = this.db): Promise<string[]> {
    const first = this.draft();
    const lines = await inTransaction(db, async (tx) => {
      const [one] = await this.acts.recordLines(tx, [first]);
      const second = this.draft({ prev: [{ origin: ORIGIN, leafHash: one!.leafHash }] });
      return [one!, ...(await this.acts.recordLines(tx, [second]))];
    });
    const signed = await this.acts.recordSigned(this.signedDraft(), this.act);
    return [...lines, signed].map((act) => act.retryKey);
  }

  wait(retryKeys: readonly string[], timeoutMs = 20_000) {
    return this.acts.waitIncluded(retryKeys, { timeoutMs });
  }

  /** The whole promise: see the class. Every signature ever made must be the final log's own past. */
  async assertSound(entries?: number): Promise<void> {
    expect(this.early).toEqual([]);
    const audit = await auditLog({
      fetch: databaseSource(this.db),
      log: this.key,
      verify: nodeVerify,
      sha256: nodeSha256,
    });
    expect(audit).toMatchObject({ ok: true, ...(entries === undefined ? {} : { entries }) });
    if (!audit.ok) return;
    for (const [size, roots] of this.signed) {
      expect(roots.size, `roots signed for ${size} entries`).toBe(1);
      expect([...roots][0], `the root signed for ${size} entries`).toBe(toHex(await audit.reader.rootAt(size)));
    }
    for (const { size } of this.published) expect(this.signed.has(size)).toBe(true);
  }

  async close(): Promise<void> {
    await this.stopAll();
    this.acts.close();
    await this.db.end();
  }
}
