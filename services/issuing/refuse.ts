import { ERROR_KINDS, type ErrorCode } from "../../lib/domain/error-codes.ts";
import { answeredItems, finishBatch, getBatch, insertResults, lockBatch } from "../../store/batches.ts";
import { inTransaction, type Db } from "../../store/db.ts";

/** Answers what is left of a batch with one refusal. What was certified stays: its CSR, posted again, gets it back. */
export async function refuseBatch(db: Db, batchId: string, error: { code: string; message: string }): Promise<void> {
  const code = Object.hasOwn(ERROR_KINDS, error.code) ? (error.code as ErrorCode) : "internal";
  const { items } = await getBatch(db, batchId);
  await inTransaction(db, async (tx) => {
    if ((await lockBatch(tx, batchId)) === "done") return;
    const answered = await answeredItems(tx, batchId);
    const open = items.map((_, index) => index).filter((index) => !answered.has(index));
    await insertResults(
      tx,
      batchId,
      open.map((index) => ({ index, error: { code, message: error.message } })),
    );
    await finishBatch(tx, batchId);
  });
}
