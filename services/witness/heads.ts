import { utf8 } from "../../lib/domain/bytes.ts";
import type { Db } from "../../store/db.ts";
import { witnessedLogs } from "../../store/witness.ts";
import { sha256Hex } from "../ledger/sha256.ts";

/** Where a witness's last checkpoint of a log is found below its prefix: origins hold slashes. */
export const witnessedPath = (origin: string): string => `${sha256Hex(utf8(origin))}/checkpoint`;

/** The last checkpoint that this site's witness cosigned of the log with this origin digest, as it was handed in. */
export async function witnessedCheckpoint(db: Db, originSha256: string): Promise<Uint8Array | undefined> {
  const logs = await witnessedLogs(db);
  return logs.find(({ origin }) => sha256Hex(utf8(origin)) === originSha256)?.note;
}
