import { equalBytes, fromHex, toBase64, toHex } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import type { Signer, VerifySignature } from "../../lib/domain/signing.ts";
import { auditLog } from "../../lib/ledger/audit-log.ts";
import { TreeEdge } from "../../lib/ledger/edge.ts";
import { formatNote, parseNote, type NoteKey } from "../../lib/ledger/note.ts";
import type { FetchResource, LogEntry, LogReader } from "../../lib/ledger/reader.ts";
import { edgeTiles } from "../../lib/ledger/tiles.ts";
import { HASH_SIZE, splitHashes } from "../../lib/ledger/tree.ts";
import { parseEntry } from "../../lib/records/statement.ts";
import type { Db, Tx } from "../../store/db.ts";
import { findCurrentGrant } from "../../store/grants.ts";
import {
  insertLeaves,
  moveHead,
  readBlob,
  readHead,
  readTile,
  storeBlob,
  storeCheckpoint,
  trySequencerLock,
  upsertTiles,
  type LedgerHead,
} from "../../store/ledger.ts";
import { adoptAct, adoptQuota, startNewEpochs, unqueueSequenced } from "../../store/recovery.ts";
import { forgetBaselines } from "../../store/signature-account.ts";
import { Acts } from "../ledger/acts.ts";
import { nodeSha256, sha256Hex } from "../ledger/sha256.ts";
import { enqueue } from "../parties/outbox.ts";
import { applyAct, blobsOf, ownPrev, type EffectContext } from "./effects.ts";

const CHUNK = 1024;

export interface RebuildOptions {
  readonly db: Db;
  readonly party: string;
  readonly log: NoteKey;
  readonly verify: VerifySignature;
  /** the party's act key: signs the `recovered` act */
  readonly actSigner: Signer;
  /** the ledger as it was exported or is mirrored: `checkpoint`, `tile/...`, `blobs/...`. Not trusted. */
  readonly source: FetchResource;
  readonly imagesDir: string;
  readonly onProgress?: (entries: number, total: number) => void;
}

export interface Rebuilt {
  /** the ledger as the restored database held it */
  readonly restored: number;
  /** and as it is now */
  readonly size: number;
  /** acts whose consequences the ledger alone doesn't tell */
  readonly left: readonly { readonly index: number; readonly type: string; readonly subject: string }[];
  /** hex */
  readonly recovered: string;
}

/**
 * Brings a restored database up to the ledger that was published: acts, tree, checkpoint, and what followed from the
 * acts. The source is verified whole before anything is written, and must continue what the database holds; everything
 * is written in one transaction. Then a `recovered` act says what happened, every peer hears of it and sends again what
 * this site has forgotten. The site itself has to be down.
 * @throws CountersignError `ledger-forked` when the source is another history, `state-conflict` when a sequencer runs or
 *   the database holds more than the source, `not-found` when the source lacks what an act rests on
 */
export async function rebuildLedger(options: RebuildOptions): Promise<Rebuilt> {
  const { db, log, verify, source } = options;
  const spent = { devices: 0 };
  const audit = await auditLog({
    fetch: source,
    log,
    verify,
    sha256: nodeSha256,
    onEntry: ({ bytes }) => count(bytes, spent),
  });
  if (!audit.ok) throw new CountersignError(audit.code, `the ledger to rebuild from doesn't verify: ${audit.message}`);
  const { reader } = audit;
  const client = await db.connect();
  try {
    if (!(await trySequencerLock(client))) {
      throw new CountersignError("state-conflict", "the site is running: stop it before its ledger is rebuilt");
    }
    const head = await readHead(client);
    if (head === undefined || head.origin !== log.name) {
      throw new CountersignError("state-conflict", `the database doesn't hold the ledger ${log.name}`);
    }
    await assertContinues(reader, head);
    await client.query("BEGIN");
    const left = await replay(client, reader, head, options).catch(async (error: unknown) => {
      await client.query("ROLLBACK").catch(() => undefined);
      throw error;
    });
    await adoptQuota(client, spent.devices);
    await forgetBaselines(client);
    await client.query("COMMIT");
    const recovered = await recordRecovery(options, head, reader);
    return { restored: head.size, size: reader.size, left, recovered };
  } finally {
    // With the connection goes the lock.
    client.release(true);
  }
}

function count(entry: Uint8Array, spent: { devices: number }): void {
  const { act } = parseEntry(entry);
  if (act.type === "certified") spent.devices++;
  // A renewal grants no device that wasn't granted before.
  if (act.type === "delegation" && act.fields.revision === 1) spent.devices += act.fields.quota;
}

async function assertContinues(reader: LogReader, head: LedgerHead): Promise<void> {
  if (head.size > reader.size) {
    throw new CountersignError(
      "state-conflict",
      `the database holds ${head.size} entries, and the ledger to rebuild from only ${reader.size}: there is nothing to rebuild`,
    );
  }
  if (equalBytes(await reader.rootAt(head.size), head.root)) return;
  throw new CountersignError(
    "ledger-forked",
    `the ledger to rebuild from is another history than the first ${head.size} entries of the database`,
  );
}

async function replay(tx: Tx, reader: LogReader, head: LedgerHead, options: RebuildOptions): Promise<Rebuilt["left"]> {
  const left: { index: number; type: string; subject: string }[] = [];
  const edge = await edgeOf(tx, head.size);
  const context: EffectContext = {
    party: options.party,
    imagesDir: options.imagesDir,
    blob: (sha256) => fetchBlob(tx, sha256, options.source),
  };
  let chunk: LogEntry[] = [];
  const write = async (): Promise<void> => {
    if (chunk.length === 0) return;
    const first = edge.size;
    const leaves = [];
    for (const entry of chunk) {
      const { act, statement, dsse } = parseEntry(entry.bytes);
      const leafHash = toHex(entry.leafHash);
      const retryKey = fromHex(act.retryKey);
      const known = await adoptAct(tx, {
        retryKey,
        type: act.type,
        statement: dsse ? statement : null,
        entry: entry.bytes,
        leafHash: entry.leafHash,
        prev: ownPrev(act),
      });
      for (const sha256 of blobsOf(act)) await fetchBlob(tx, sha256, options.source);
      // Recorded before the backup: what followed from it was written in the same transaction.
      const applied = known || (await applyAct(tx, { act, entry: entry.bytes, leafHash }, context));
      if (!applied) left.push({ index: entry.index, type: act.type, subject: act.subject[0]!.name });
      leaves.push({ retryKey, leafHash: entry.leafHash });
    }
    const tiles = edge.append(leaves.map((leaf) => leaf.leafHash));
    await insertLeaves(tx, first, leaves);
    await upsertTiles(tx, tiles);
    chunk = [];
    options.onProgress?.(edge.size, reader.size);
  };
  for await (const entry of reader.entries(head.size)) {
    chunk.push(entry);
    if (chunk.length === CHUNK) await write();
  }
  await write();
  const { size, root } = reader.checkpoint;
  if (!equalBytes(edge.root(), root))
    throw new CountersignError("internal", "the tree that was rebuilt has another root");
  if (size > head.size && !(await moveHead(tx, head, { size, root }))) {
    throw new CountersignError("state-conflict", "the head was moved by somebody else: stop the site first");
  }
  await storeCheckpoint(tx, { size, root, note: ownNote(reader) });
  await unqueueSequenced(tx);
  return left;
}

/** The checkpoint as this log signed it; cosignatures are asked for again. */
function ownNote(reader: LogReader): Uint8Array {
  const note = parseNote(reader.checkpoint.note);
  return formatNote({ ...note, signatures: note.signatures.filter(({ name }) => name === reader.origin) });
}

async function edgeOf(tx: Tx, size: number): Promise<TreeEdge> {
  const tiles = [];
  for (const { level, index, width } of edgeTiles(size)) {
    const bytes = await readTile(tx, level as number, index);
    if (bytes === undefined || bytes.length < width * HASH_SIZE) {
      throw new CountersignError("ledger-forked", `the database lacks tile ${level}/${index} of its own ledger`);
    }
    tiles.push(splitHashes(bytes.subarray(0, width * HASH_SIZE)));
  }
  return new TreeEdge(size, tiles, nodeSha256);
}

async function fetchBlob(tx: Tx, sha256: string, source: FetchResource): Promise<Uint8Array> {
  const held = await readBlob(tx, fromHex(sha256));
  if (held) return held;
  const bytes = await source(`blobs/${sha256}`);
  if (bytes === undefined || sha256Hex(bytes) !== sha256) {
    throw new CountersignError("not-found", `the ledger to rebuild from lacks blobs/${sha256}, which an act names`);
  }
  await storeBlob(tx, fromHex(sha256), bytes);
  return bytes;
}

async function recordRecovery(options: RebuildOptions, head: LedgerHead, reader: LogReader): Promise<string> {
  const { db, party, log, actSigner } = options;
  const acts = new Acts({ db, origin: log.name, party });
  const { size, root } = reader.checkpoint;
  const grant = await findCurrentGrant(db);
  try {
    const { leafHash } = await acts.recordSigned(
      {
        type: "recovered",
        workflowId: `recovery/${head.size}/${size}`,
        stepKey: "recovered",
        subject: [{ name: party, digest: { sha256: sha256Hex(actSigner.spki) } }],
        ...(grant === undefined ? {} : { grant: grant.ref }),
        fields: {
          restored: { size: head.size, root: toHex(head.root) },
          rebuilt: { size, root: toHex(root) },
        },
      },
      actSigner,
      async (tx, act) => {
        for (const { party: receiver, epoch, sequence } of await startNewEpochs(tx)) {
          const body = { act: toBase64(act.entry), received: { epoch, sequence } };
          await enqueue(tx, { receiver, type: "recovered", retryKey: `recovered/${act.retryKey}/${receiver}`, body });
        }
      },
    );
    return leafHash;
  } finally {
    acts.close();
  }
}
