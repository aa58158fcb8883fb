import { setTimeout as sleep } from "node:timers/promises";
import { CountersignError } from "../../lib/domain/errors.ts";
import type { VerifySignature } from "../../lib/domain/signing.ts";
import type { NoteKey } from "../../lib/ledger/note.ts";
import { meetsQuorum, type TlogPolicy } from "../../lib/ledger/policy.ts";
import { LogReader } from "../../lib/ledger/reader.ts";
import {
  cosignaturesOf,
  lastCosignedBy,
  markCosigned,
  newestCosigned,
  storeCosignature,
} from "../../store/cosignatures.ts";
import type { Db } from "../../store/db.ts";
import { CHECKPOINT_CHANNEL, readCheckpoint, type StoredCheckpoint } from "../../store/ledger.ts";
import { keepListening, type Subscription } from "../../store/listen.ts";
import { databaseSource } from "../ledger/serve.ts";
import { nodeSha256 } from "../ledger/sha256.ts";
import { askWitness } from "./ask.ts";
import type { SitePolicy } from "./policy.ts";

export interface FeedOptions {
  readonly db: Db;
  /** this site's own log */
  readonly log: NoteKey;
  readonly verify: VerifySignature;
  readonly policy: SitePolicy;
  /** between rounds while the log grows; default 1000 */
  readonly intervalMs?: number;
  /** for a witness's answer; default 5000 */
  readonly timeoutMs?: number;
  /** pauses after a witness's first and its many failures; default 1 s and 60 s */
  readonly pauseMs?: { readonly first: number; readonly last: number };
  /** Told when a witness fails after it had answered, or with another reason than before. */
  readonly onFault?: (witness: string, error: unknown) => void;
}

export interface WitnessStatus {
  readonly name: string;
  readonly url: string;
  /** the newest checkpoint that it cosigned, and when by its clock, in seconds since 1970 */
  readonly size: number;
  readonly time: number | undefined;
  /** why it isn't asked for now */
  readonly error: string | undefined;
}

/** One witness: where it stands, and how it has behaved. */
interface Lane {
  size: number;
  time: number | undefined;
  failures: number;
  /** not asked before, on the clock of performance.now() */
  notBefore: number;
  error: string | undefined;
  busy: boolean;
}

const POLL_MS = 2_000;

/**
 * Gets witnesses' cosignatures for this site's checkpoints, in the background: appends never wait for it. All witnesses
 * are asked for the same checkpoint at once, so that their cosignatures come together under one; then for the newest
 * again. One that doesn't answer is left out of the rounds and tried by itself, with longer and longer pauses: the others
 * don't wait for it. Several processes may run one: what is stored twice is stored once.
 */
export class WitnessFeed {
  readonly #options: FeedOptions;
  readonly #lanes = new Map<string, Lane>();
  readonly #stopping = new AbortController();
  #probes = new Set<Promise<void>>();
  #subscription: Subscription | undefined;
  #running: Promise<void> | undefined;
  #woken = false;
  #wake: (() => void) | undefined;

  constructor(options: FeedOptions) {
    this.#options = options;
  }

  async start(): Promise<void> {
    this.#subscription = await keepListening(this.#options.db, CHECKPOINT_CHANNEL, () => this.wake());
    this.#running ??= this.#run();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    this.wake();
    this.#subscription?.close();
    await this.#running;
    await Promise.allSettled(this.#probes);
  }

  /** There may be something to cosign. */
  wake(): void {
    this.#woken = true;
    this.#wake?.();
  }

  async status(): Promise<WitnessStatus[]> {
    const policy = await this.#options.policy();
    return Promise.all(
      [...policy.witnesses.values()].map(async (key) => {
        const { size, time, error } = await this.#lane(key);
        return { name: key.name, url: policy.urls.get(key) ?? "", size, time, error };
      }),
    );
  }

  async #run(): Promise<void> {
    const { intervalMs = 1000, onFault } = this.#options;
    while (!this.#stopping.signal.aborted) {
      this.#woken = false;
      const began = performance.now();
      try {
        await this.#round();
      } catch (error) {
        onFault?.("", error);
      }
      await this.#rest();
      const pause = began + intervalMs - performance.now();
      if (pause > 0) await this.#sleep(pause);
    }
  }

  #sleep(ms: number): Promise<void> {
    return sleep(ms, undefined, { signal: this.#stopping.signal }).catch(() => undefined);
  }

  /** Until there is a new checkpoint; looks by itself too, for witnesses whose pause is over and words that got lost. */
  async #rest(): Promise<void> {
    if (this.#woken || this.#stopping.signal.aborted) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, POLL_MS);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
    this.#wake = undefined;
  }

  async #round(): Promise<void> {
    const { db, log, verify } = this.#options;
    const newest = await readCheckpoint(db);
    // An empty log has nothing that could be forked.
    if (newest === undefined || newest.size === 0) return;
    const policy = await this.#options.policy();
    const lanes: { key: NoteKey; url: string; lane: Lane }[] = [];
    for (const key of policy.witnesses.values()) {
      const lane = await this.#lane(key);
      const url = policy.urls.get(key);
      if (url === undefined || lane.busy || lane.size === newest.size || lane.notBefore > performance.now()) continue;
      lanes.push({ key, url, lane });
    }
    if (lanes.length > 0) {
      const source = { fetch: databaseSource(db), log, verify, checkpoint: newest.note, sha256: nodeSha256 };
      const reader = await LogReader.open(source);
      const round: Promise<void>[] = [];
      for (const { key, url, lane } of lanes) {
        const asked = this.#ask({ key, url, lane, checkpoint: newest, reader, policy });
        if (lane.failures === 0) {
          round.push(asked);
        } else {
          const probe = asked.finally(() => this.#probes.delete(probe));
          this.#probes.add(probe);
        }
      }
      await Promise.all(round);
    }
    await this.#settle(newest.size, policy);
  }

  /** Marks the checkpoint when a quorum has cosigned it. */
  async #settle(size: number, policy: TlogPolicy): Promise<void> {
    const { db } = this.#options;
    if ((await newestCosigned(db)) === size) return;
    if (await this.#isCosigned(size, policy)) await markCosigned(db, size);
  }

  /** By a quorum of this policy: a mark may be of an earlier one, or of a time when nobody was known. */
  async #isCosigned(size: number, policy: TlogPolicy): Promise<boolean> {
    const lines = await cosignaturesOf(this.#options.db, size);
    const cosigned = [...policy.witnesses.values()].filter((key) =>
      lines.some((line) => line.name === key.name && line.keyId === key.keyId),
    );
    return meetsQuorum(policy, new Set(cosigned));
  }

  async #ask(work: {
    key: NoteKey;
    url: string;
    lane: Lane;
    checkpoint: StoredCheckpoint;
    reader: LogReader;
    policy: TlogPolicy;
  }): Promise<void> {
    const { key, url, lane, checkpoint, reader } = work;
    const { db, verify, timeoutMs = 5000, onFault } = this.#options;
    lane.busy = true;
    try {
      const { line, time } = await askWitness({
        key,
        url,
        oldSize: lane.size,
        size: checkpoint.size,
        checkpoint: checkpoint.note,
        proofFrom: (oldSize) => reader.consistencyProof(oldSize),
        verify,
        timeoutMs,
        signal: this.#stopping.signal,
      });
      const probing = lane.failures > 0;
      await storeCosignature(db, checkpoint.size, { ...line, time });
      Object.assign(lane, { size: checkpoint.size, time, failures: 0, notBefore: 0, error: undefined });
      if (probing) {
        await this.#settle(checkpoint.size, work.policy);
        this.wake();
      }
    } catch (error) {
      if (this.#stopping.signal.aborted) return;
      const { first, last } = this.#options.pauseMs ?? { first: 1000, last: 60_000 };
      const pause = Math.min(first * 2 ** lane.failures, last);
      lane.failures++;
      lane.notBefore = performance.now() + pause * (0.75 + Math.random() / 2);
      const message = error instanceof Error ? error.message : String(error);
      if (lane.error !== message) onFault?.(key.name, error);
      lane.error = message;
    } finally {
      lane.busy = false;
    }
  }

  /** Where a witness stands is read once; it says so itself when that is wrong. */
  async #lane(key: NoteKey): Promise<Lane> {
    const id = `${key.name}+${key.keyId}`;
    const known = this.#lanes.get(id);
    if (known !== undefined) return known;
    const last = await lastCosignedBy(this.#options.db, key);
    const lane: Lane = {
      size: last?.size ?? 0,
      time: last?.time,
      failures: 0,
      notBefore: 0,
      error: undefined,
      busy: false,
    };
    this.#lanes.set(id, this.#lanes.get(id) ?? lane);
    return this.#lanes.get(id)!;
  }

  /**
   * Resolves when a quorum has cosigned a checkpoint of at least `size` entries. Gives that checkpoint's size.
   * @throws CountersignError `witnesses-missing` after `timeoutMs`, naming the witnesses that haven't
   */
  async cosigned(size: number, timeoutMs = 15_000): Promise<number> {
    const { db } = this.#options;
    for (const deadline = performance.now() + timeoutMs; ;) {
      const policy = await this.#options.policy();
      const newest = await newestCosigned(db);
      if (newest !== undefined && newest >= size && (await this.#isCosigned(newest, policy))) return newest;
      if (meetsQuorum(policy, new Set())) return size;
      if (performance.now() > deadline || this.#stopping.signal.aborted) break;
      await this.#sleep(100);
    }
    const behind = (await this.status()).filter((witness) => witness.size < size);
    const why = behind.map(({ name, size: at, error }) => error ?? `${name} has cosigned ${at} entries`);
    throw new CountersignError(
      "witnesses-missing",
      `waiting for a quorum of witnesses to cosign ${size} entries of this ledger; nothing leaves before: ${why.join("; ")}`,
      { details: { size } },
    );
  }
}
