import { ERROR_KINDS, type ErrorCode } from "../../lib/domain/error-codes.ts";
import { answeredItems, batchSizes, finishBatches, insertResults, lockBatch } from "../../store/batches.ts";
import { inTransaction, type Db } from "../../store/db.ts";

/** Answers what is left of a batch with one refusal. What was certified stays: its CSR, posted again, gets it back. */
export async function refuseBatch(db: Db, batchId: string, error: { code: string; message: string }): Promise<void> {
  const code = Object.hasOwn(ERROR_KINDS, error.code) ? (error.code as ErrorCode) : "internal";
  const count = (await batchSizes(db, [batchId])).get(batchId)?.count;
  // Nobody waits for a batch that isn't there: of a database that was set back, its workflow knows more than it does.
  if (count === undefined) return;
  await inTransaction(db, async (tx) => {
    if ((await lockBatch(tx, batchId)) === "done") return;
    const answered = await answeredItems(tx, [batchId]);
    const open = Array.from({ length: count }, (_, index) => ({ batch: batchId, index })).filter((at) => !answered(at));
    await insertResults(
      tx,
      open.map((at) => ({ ...at, error: { code, message: error.message } })),
    );
    await finishBatches(tx, [batchId]);
  });
}
