import { equalBytes, utf8 } from "../../lib/domain/bytes.ts";
import { isCountersignError } from "../../lib/domain/errors.ts";
import type { Signer, VerifySignature } from "../../lib/domain/signing.ts";
import { parseAddCheckpoint, type AddCheckpoint } from "../../lib/ledger/add-checkpoint.ts";
import type { Checkpoint } from "../../lib/ledger/checkpoint.ts";
import { cosign, formatSignatureLines } from "../../lib/ledger/cosignature.ts";
import { parseNote, verifyNote, type Note, type NoteKey } from "../../lib/ledger/note.ts";
import { emptyRoot, verifyConsistency } from "../../lib/ledger/tree.ts";
import type { Db } from "../../store/db.ts";
import { advanceWitnessed, keepEvidence, witnessedLog, type WitnessedLog } from "../../store/witness.ts";
import { nodeSha256 } from "../ledger/sha256.ts";
import { cosignedText } from "./heads.ts";
import { furthest, type WitnessMemory } from "./memory.ts";

export interface WitnessOptions {
  readonly db: Db;
  /** what it has cosigned, outside the database; absent: a restored database makes it forget */
  readonly memory?: WitnessMemory | undefined;
  /** the witness's key name */
  readonly name: string;
  /** its Ed25519 key, which signs nothing else */
  readonly signer: Signer;
  readonly verify: VerifySignature;
  /** the keys that a log's checkpoints are trusted by; none: the log is unknown here */
  readonly logKeys: (origin: string) => Promise<readonly NoteKey[]>;
  /** A log's own key signed what contradicts what this witness has cosigned. */
  readonly onEvidence?: (evidence: { origin: string; reason: EvidenceReason }) => void;
  readonly now?: () => Date;
}

/** fork: another root at the size that was cosigned; bad-proof: nothing leads there from what was cosigned */
export type EvidenceReason = "fork" | "bad-proof";

/** The specification's answers to `add-checkpoint`. */
export type WitnessAnswer =
  | { readonly status: 200; readonly lines: string }
  /** `size`: of the last checkpoint cosigned; the client posts again from there */
  | { readonly status: 409; readonly size: number }
  | { readonly status: 400 | 403 | 404 | 422; readonly message: string };

/**
 * A C2SP tlog-witness: cosigns a log's checkpoint when it continues the last one that it cosigned. The new state is
 * durable before the cosignature exists, and moves by compare-and-set: two requests at once can't roll it back, also not
 * in two processes. Nor can a restored database, where it has a memory outside of that.
 */
export class Witness {
  readonly #options: WitnessOptions;

  constructor(options: WitnessOptions) {
    this.#options = options;
  }

  /** @throws CountersignError `hsm-*` and what the database throws: nothing was cosigned, and asking again is safe */
  async addCheckpoint(body: Uint8Array): Promise<WitnessAnswer> {
    const { db, memory, name, signer, now } = this.#options;
    let request: AddCheckpoint;
    let note: Note;
    let checkpoint: Checkpoint;
    try {
      request = parseAddCheckpoint(body);
      note = parseNote(request.checkpoint);
      checkpoint = cosignedText(note.text);
    } catch (error) {
      if (!isCountersignError(error)) throw error;
      return { status: 400, message: error.message };
    }
    const { origin, size, root } = checkpoint;
    const keys = (await this.#options.logKeys(origin)).filter((key) => key.name === origin);
    if (keys.length === 0) return { status: 404, message: `this witness knows no log ${origin.slice(0, 200)}` };
    if (!(await this.#signed(note, keys))) {
      return { status: 403, message: `the checkpoint is not signed by a key that is trusted for ${origin}` };
    }
    if (request.oldSize > size) {
      return { status: 400, message: `the old size ${request.oldSize} exceeds the checkpoint's ${size}` };
    }

    const stored = await witnessedLog(db, origin);
    const known = furthest(stored, await memory?.last(origin));
    const last = known ?? { size: 0, root: emptyRoot(nodeSha256) };
    if (size === last.size && !equalBytes(root, last.root)) {
      // Two signatures of the log's key over one size and two roots: a fork, whatever the old size says.
      await this.#keep("fork", origin, note.text, body, known);
      return { status: 409, size: last.size };
    }
    if (request.oldSize !== last.size) return { status: 409, size: last.size };
    const { proof } = request;
    if (!verifyConsistency({ oldSize: last.size, oldRoot: last.root, size, root, proof }, nodeSha256)) {
      await this.#keep("bad-proof", origin, note.text, body, known);
      return { status: 422, message: `the consistency proof from ${last.size} to ${size} doesn't verify` };
    }

    // The time is taken before the state moves: at that time nothing larger had been cosigned.
    const time = Math.floor((now?.() ?? new Date()).getTime() / 1000);
    const next = { size, root, note: request.checkpoint };
    const moved = await advanceWitnessed(db, origin, stored, next);
    if (!moved) return { status: 409, size: (await witnessedLog(db, origin))?.size ?? 0 };
    await memory?.keep(origin, next);
    return { status: 200, lines: formatSignatureLines([await cosign(note.text, name, signer, time)]) };
  }

  async #signed(note: Note, keys: readonly NoteKey[]): Promise<boolean> {
    try {
      return (await verifyNote(note, keys, this.#options.verify)).length > 0;
    } catch (error) {
      if (isCountersignError(error) && error.code === "note-invalid") return false;
      throw error;
    }
  }

  /**
   * A request that isn't cosigned may still prove that the log misbehaves: its key signed the checkpoint in it. One for
   * each text, and each reason has a bound of its own: others' bad proofs leave room for a fork.
   */
  async #keep(
    reason: EvidenceReason,
    origin: string,
    text: string,
    request: Uint8Array,
    known: WitnessedLog | undefined,
  ): Promise<void> {
    const sha256 = nodeSha256(utf8(text));
    const fresh = await keepEvidence(this.#options.db, { origin, sha256, reason, request, known: known?.note });
    if (fresh) this.#options.onEvidence?.({ origin, reason });
  }
}
