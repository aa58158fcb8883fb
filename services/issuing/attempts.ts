import { inTransaction, type Db, type Tx } from "../../store/db.ts";

/** Another transaction stored the same device, key or slot between this one's look and its insert. */
export class LostRace extends Error {}

const RETRIED = new Set(["40P01", "40001"]); // deadlock_detected, serialization_failure
const ATTEMPTS = 5;

/** A transaction that is simply run again when it lost a race: the next look sees who won. */
export async function inTransactionWithRetry<T>(db: Db, work: (tx: Tx) => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await inTransaction(db, work);
    } catch (error) {
      const lost = error instanceof LostRace || RETRIED.has((error as { code?: string }).code ?? "");
      if (!lost || attempt === ATTEMPTS) throw error;
    }
  }
}
