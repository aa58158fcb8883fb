import { ed25519Raw, KEY_TYPE, noteKey, type NoteKey } from "../../lib/ledger/note.ts";
import { Acts, createLedger, Sequencer, type ActDraft } from "../../services/ledger/index.ts";
import { connect, inTransaction, migrate, type Db } from "../../store/db.ts";
import { nodeVerify } from "../../hsm/verify.ts";
import { testDatabase } from "./index.ts";
import { testKey, type TestKey } from "./memory-log.ts";

const ORIGIN = "factory-y.example/log";
const digest = (n: number): string => n.toString(16).padStart(64, "0");

/** A ledger in a database of its own, written by the sequencer. */
export interface StoredLog {
  readonly db: Db;
  readonly key: NoteKey;
  /** signs each checkpoint's second line */
  readonly second: TestKey;
  /** Records so many line records more and waits for a checkpoint over them. */
  grow(count: number): Promise<void>;
  close(): Promise<void>;
}

export async function storedLog(): Promise<StoredLog> {
  const db = connect((await testDatabase()).url, { max: 8 });
  await migrate(db);
  const [log, second] = [testKey("ed25519"), testKey("p256")];
  await createLedger({ db, origin: ORIGIN, signer: log });
  const acts = new Acts({ db, origin: ORIGIN, party: "factory-y" });
  const sequencer = new Sequencer({ db, origin: ORIGIN, signer: log, second, actKeys: () => [], verify: nodeVerify });
  sequencer.start();
  let written = 0;
  return {
    db,
    key: noteKey(ORIGIN, KEY_TYPE.ed25519, ed25519Raw(log.spki)),
    second,
    async grow(count) {
      const drafts = Array.from({ length: count }, (): ActDraft<"intent"> => {
        const n = ++written;
        return {
          type: "intent",
          workflowId: "lot/L1",
          stepKey: `intent-${n}`,
          subject: [{ name: "L1", digest: { sha256: digest(n) } }],
          fields: { lot: "L1", manifest: digest(n), tbsRoot: digest(n + 1), count: 1 },
        };
      });
      const recorded = await inTransaction(db, (tx) => acts.recordLines(tx, drafts));
      await acts.waitIncluded(
        recorded.map(({ retryKey }) => retryKey),
        { timeoutMs: 20_000 },
      );
    },
    async close() {
      await sequencer.stop();
      acts.close();
      await db.end();
    },
  };
}
