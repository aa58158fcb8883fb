import { setTimeout as sleep } from "node:timers/promises";
import { equalBytes } from "../../lib/domain/bytes.ts";
import { CountersignError, isCountersignError } from "../../lib/domain/errors.ts";
import type { Signer, VerifySignature } from "../../lib/domain/signing.ts";
import { signCheckpoint } from "../../lib/ledger/checkpoint.ts";
import { TreeEdge } from "../../lib/ledger/edge.ts";
import { edgeTiles } from "../../lib/ledger/tiles.ts";
import { emptyRoot, HASH_SIZE, splitHashes } from "../../lib/ledger/tree.ts";
import type { Db, Tx } from "../../store/db.ts";
import {
  createHead,
  endWhenSilent,
  insertLeaves,
  moveHead,
  PENDING_CHANNEL,
  readCheckpoint,
  readHead,
  readEntriesOf,
  readTile,
  refuseAct,
  removePending,
  storeCheckpoint,
  takePending,
  trySequencerLock,
  unsequencedLeafHashes,
  upsertTiles,
} from "../../store/ledger.ts";
import { admit, type ActKey, type Admission, type Standing, type Vouched } from "./admission.ts";
import type { KeptCheckpoint } from "./copy.ts";
import { nodeSha256 } from "./sha256.ts";
import { assertHoldsAll, type Sighting } from "./sighting.ts";

export interface SequencerOptions {
  /** Takes one connection for as long as it leads, or tries to. */
  readonly db: Db;
  readonly origin: string;
  /** the log's Ed25519 key */
  readonly signer: Signer;
  /** a P-256 key that signs checkpoints too, on a line of its own */
  readonly second?: Signer;
  /** the keys that signed acts are admitted from; asked again for every batch that holds one */
  readonly actKeys: () => readonly ActKey[] | Promise<readonly ActKey[]>;
  readonly verify: VerifySignature;
  /** what the party may act under; without it no act's grant is looked at */
  readonly standing?: () => Promise<Standing>;
  /** See `Acts.vouches`. */
  readonly vouched?: (leafHash: string) => Vouched | undefined;
  /** These leaf hashes (hex) won't be asked for again: see `Acts.forget`. */
  readonly sequenced?: (leafHashes: readonly string[]) => void;
  /** between checkpoints under load; default 100. A few acts are taken at once. */
  readonly intervalMs?: number;
  /** acts in one transaction; default 4096 */
  readonly maxBatch?: number;
  /**
   * When nothing was heard from a leader for so long the server ends its session, and another takes over; default
   * 15,000. One whose own connection is silent gives it up after twice that.
   */
  readonly sessionTimeoutMs?: number;
  /** after a fault; default 250 */
  readonly retryMs?: number;
  /** A fault that the sequencer goes on after. */
  readonly onError?: (error: unknown) => void;
  /**
   * Who outside the database has seen how much of this ledger: asked whenever a sequencer takes the lead, before it
   * signs. What it throws is a fault.
   */
  readonly seen?: (head: { readonly size: number }) => Promise<readonly Sighting[]>;
  /** Called with each signed checkpoint before it is stored, and so before anybody sees it. A fault withholds it. */
  readonly keep?: (checkpoint: KeptCheckpoint) => Promise<void>;
  /** After a checkpoint was stored. */
  readonly onCheckpoint?: (checkpoint: { size: number; note: Uint8Array }) => void;
  /** Tests stop the sequencer at these points; nothing else sets them. */
  readonly seam?: SequencerSeam;
}
export interface SequencerSeam {
  /** T1 is written but not committed. */
  readonly beforeCommit?: (size: number) => Promise<void>;
  /** T1 is durable, nothing is signed. */
  readonly beforeSign?: (size: number) => Promise<void>;
  /** The signature exists, nothing is stored. */
  readonly beforeStore?: (size: number, note: Uint8Array) => Promise<void>;
}

const IDLE_MS = 1000;
const SESSION_TIMEOUT_MS = 15_000;
/** Fewer acts than this in one go are no load yet. */
const FEW_ACTS = 64;
const STANDBY_MS = 250;
const RETRY_MS = 250;

/**
 * Creates the ledger where there is none and signs its size-0 checkpoint, which proves possession of the log key in the
 * party's keyset. Gives the newest checkpoint's note. Idempotent.
 * @throws CountersignError `state-conflict` when the database holds another party's ledger
 */
export async function createLedger(options: { db: Db; origin: string; signer: Signer }): Promise<Uint8Array> {
  const root = emptyRoot(nodeSha256);
  const head = await createHead(options.db, options.origin, root);
  if (head.size === 0) {
    const note = await signCheckpoint({ origin: options.origin, size: 0, root }, options.signer);
    await storeCheckpoint(options.db, { size: 0, root, note });
  }
  const newest = await readCheckpoint(options.db);
  if (newest === undefined) {
    throw new CountersignError("internal", `ledger ${options.origin} has ${head.size} entries and no checkpoint`);
  }
  return newest.note;
}

/**
 * Gives acts their place in the log. One leads at a time, under a session lock on the connection that it also writes
 * through; the others stand by. Two steps, never mixed: T1 makes leaves, tiles and head durable, T2 signs the durable
 * head. Signing first could leave a signature over state that was lost, which is a fork; so a leader that stops in
 * between leaves an unsigned head, and the next one signs it before anything else.
 */
export class Sequencer {
  readonly #options: SequencerOptions;
  readonly #stopping = new AbortController();
  #running: Promise<void> | undefined;
  #wake: (() => void) | undefined;
  #woken = false;
  #leads = false;
  /** when the database last answered */
  #heard = 0;

  constructor(options: SequencerOptions) {
    this.#options = options;
  }

  start(): void {
    this.#running ??= this.#run();
  }

  /** Acts were committed by this process. False when it doesn't lead: another process has to be told. */
  wake(): boolean {
    if (!this.#leads) return false;
    this.#onWork();
    return true;
  }

  readonly #onWork = (): void => {
    this.#woken = true;
    this.#wake?.();
  };

  /** Finishes the batch in hand and gives up the lock. */
  async stop(): Promise<void> {
    this.#stopping.abort();
    this.#wake?.();
    await this.#running;
  }

  get #sessionTimeout(): number {
    return this.#options.sessionTimeoutMs ?? SESSION_TIMEOUT_MS;
  }

  get #stopped(): boolean {
    return this.#stopping.signal.aborted;
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      try {
        await this.#lead();
      } catch (error) {
        this.#options.onError?.(error);
        // A log that contradicts its own signatures must not be signed again, by anybody, until someone has looked.
        if (isCountersignError(error) && (error.code === "ledger-forked" || error.code === "ledger-behind")) return;
        await sleep(this.#options.retryMs ?? RETRY_MS, undefined, { signal: this.#stopping.signal }).catch(
          () => undefined,
        );
      }
    }
  }

  async #lead(): Promise<void> {
    const client = await this.#options.db.connect();
    let lost: Error | undefined;
    const onLost = (error: Error): void => {
      lost = error;
      this.#wake?.();
    };
    client.on("error", onLost);
    client.on("notification", this.#onWork);
    try {
      await this.#unlessSilent(this.#leadOn(client, () => lost));
    } finally {
      this.#leads = false;
      // The session ends with the connection, and the lock with it.
      client.release(true);
    }
  }

  async #leadOn(client: Tx, lost: () => Error | undefined): Promise<void> {
    await endWhenSilent(client, this.#sessionTimeout);
    while (!(await trySequencerLock(client))) {
      this.#heard = performance.now();
      await sleep(STANDBY_MS, undefined, { signal: this.#stopping.signal }).catch(() => undefined);
      if (this.#stopped) return;
    }
    this.#leads = true;
    // From here every state is read again: what an earlier leader did, or this one before a fault, is in the tables.
    await client.query(`LISTEN ${PENDING_CHANNEL}`);
    const edge = await this.#recover(client);
    await this.#sequence(client, edge, lost);
  }

  /**
   * A connection can hang without ending. What still waits on it then is left behind: its next statement fails, since
   * the caller ends the connection, and a signature that it may still get is over a durable head.
   */
  async #unlessSilent(work: Promise<void>): Promise<void> {
    this.#heard = performance.now();
    const limit = 2 * this.#sessionTimeout;
    let timer: NodeJS.Timeout | undefined;
    const silent = new Promise<never>((_, reject) => {
      timer = setInterval(() => {
        if (performance.now() - this.#heard < limit) return;
        const message = `ledger ${this.#options.origin}: the database didn't answer the sequencer for ${limit} ms`;
        reject(new CountersignError("timeout", message));
      }, limit / 8);
    });
    try {
      await Promise.race([work, silent]);
    } finally {
      clearInterval(timer);
      work.catch(() => undefined);
    }
  }

  /** The tree as it is durable; signs its head if the last leader didn't come to it. */
  async #recover(client: Tx): Promise<TreeEdge> {
    const { origin } = this.#options;
    const head = await readHead(client);
    if (head === undefined) throw new CountersignError("state-conflict", `ledger ${origin} was never created`);
    if (head.origin !== origin) {
      throw new CountersignError("state-conflict", `this database holds the ledger ${head.origin}, not ${origin}`);
    }
    const tiles: Uint8Array[][] = [];
    for (const { level, index, width } of edgeTiles(head.size)) {
      const bytes = await readTile(client, level as number, index);
      if (bytes?.length !== width * HASH_SIZE) {
        throw new CountersignError("ledger-forked", `ledger ${origin}: stored tile ${level}/${index} isn't the head's`);
      }
      tiles.push(splitHashes(bytes));
    }
    const edge = new TreeEdge(head.size, tiles, nodeSha256);
    const signed = await readCheckpoint(client);
    const contradicts =
      signed !== undefined &&
      (signed.size > head.size || (signed.size === head.size && !equalBytes(signed.root, head.root)));
    if (contradicts || !equalBytes(edge.root(), head.root)) {
      throw new CountersignError(
        "ledger-forked",
        `ledger ${origin}: its head of ${head.size} entries contradicts its tiles or its checkpoint of ${signed?.size} ` +
          "entries: the database was changed or restored; nothing is signed until that is resolved",
      );
    }
    const { seen, signer, verify } = this.#options;
    if (seen) await assertHoldsAll(client, head, await seen(head), { spki: signer.spki, verify });
    this.#heard = performance.now();
    if (signed === undefined || signed.size < head.size) await this.#sign(client, edge);
    return edge;
  }

  async #sequence(client: Tx, start: TreeEdge, lost: () => Error | undefined): Promise<void> {
    const interval = this.#options.intervalMs ?? 100;
    const maxBatch = this.#options.maxBatch ?? 4096;
    let edge = start;
    while (!this.#stopped) {
      const broken = lost();
      if (broken !== undefined) throw broken;
      this.#woken = false;
      const began = performance.now();
      const { next, taken, entries } = await this.#integrate(client, edge, maxBatch);
      this.#heard = performance.now();
      if (next.size > edge.size) await this.#sign(client, next, { first: edge.size, entries });
      this.#heard = performance.now();
      edge = next;
      if (taken >= maxBatch) continue;
      const took = performance.now() - began;
      await this.#waitForWork();
      // Idle since the last batch, or a few acts in it: the next one is taken at once, so that someone who comes alone
      // doesn't wait for others; what arrives while a batch is on its way gathers by itself, and the sequencer stays
      // idle half of the time. Under load: one batch every interval.
      const span = taken === 0 ? 0 : taken < FEW_ACTS ? Math.min(2 * took, interval) : interval;
      const pause = began + span - performance.now();
      if (pause > 0) await sleep(pause, undefined, { signal: this.#stopping.signal }).catch(() => undefined);
    }
  }

  async #waitForWork(): Promise<void> {
    if (this.#woken || this.#stopped) return;
    await new Promise<void>((resolve) => {
      // Notifications can be missed around a reconnection; looking once a second costs nothing.
      const timer = setTimeout(resolve, Math.min(IDLE_MS, this.#sessionTimeout / 2));
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#wake = undefined;
  }

  /** T1: leaves, tiles and head in one transaction. The given edge is left as it is. */
  async #integrate(
    client: Tx,
    edge: TreeEdge,
    limit: number,
  ): Promise<{ next: TreeEdge; taken: number; entries: Uint8Array[] }> {
    const next = edge.clone();
    let admitted: Admission["admitted"] = [];
    await client.query("BEGIN");
    try {
      const pending = await takePending(client, limit);
      if (pending.length > 0) {
        const admission = await admit(pending, {
          ...this.#options,
          unsequenced: (hashes) => unsequencedLeafHashes(client, hashes),
          entries: (keys) => readEntriesOf(client, keys),
        });
        admitted = admission.admitted;
        for (const { act, reason } of admission.refused) await refuseAct(client, act.retryKey, reason);
        if (admitted.length > 0) {
          const tiles = next.append(admitted.map((act) => act.leafHash));
          await insertLeaves(client, edge.size, admitted);
          await upsertTiles(client, tiles);
          const moved = await moveHead(
            client,
            { size: edge.size, root: edge.root() },
            { size: next.size, root: next.root() },
          );
          if (!moved) {
            throw new CountersignError(
              "state-conflict",
              `ledger ${this.#options.origin}: another sequencer moved the head`,
            );
          }
        }
        await removePending(client, [...new Set(pending.map((act) => act.id))]);
      }
      await this.#options.seam?.beforeCommit?.(next.size);
      await client.query("COMMIT");
      this.#options.sequenced?.(admitted.map(({ leafHex }) => leafHex));
      return { next, taken: pending.length, entries: admitted.map(({ entry }) => entry) };
    } catch (error) {
      await client.query("ROLLBACK").catch(() => undefined);
      throw error;
    }
  }

  /** T2: only ever called with a tree whose T1 was committed, or that was read back from the tables. */
  async #sign(client: Tx, edge: TreeEdge, added?: KeptCheckpoint["added"]): Promise<void> {
    const { origin, signer, second, seam, keep, onCheckpoint } = this.#options;
    const checkpoint = { origin, size: edge.size, root: edge.root() };
    await seam?.beforeSign?.(edge.size);
    const note = await signCheckpoint(checkpoint, signer, second);
    await seam?.beforeStore?.(edge.size, note);
    await keep?.({ size: edge.size, note, ...(added && { added }) });
    await storeCheckpoint(client, { ...checkpoint, note });
    onCheckpoint?.({ size: edge.size, note });
  }
}
