import { utf8 } from "../../lib/domain/bytes.ts";
import { parseCheckpoint, type Checkpoint } from "../../lib/ledger/checkpoint.ts";
import { parseNote } from "../../lib/ledger/note.ts";
import type { Db } from "../../store/db.ts";
import { witnessedLogs } from "../../store/witness.ts";
import { sha256Hex } from "../ledger/sha256.ts";
import type { WitnessMemory } from "./memory.ts";

/** Where a witness's last checkpoint of a log is found below its prefix: origins hold slashes. */
export const witnessedPath = (origin: string): string => `${sha256Hex(utf8(origin))}/checkpoint`;

/**
 * The last checkpoint that this site's witness cosigned of the log with this origin digest, as it was handed in: of the
 * database's and the files' the larger one.
 */
export async function witnessedCheckpoint(
  db: Db,
  memory: WitnessMemory | undefined,
  originSha256: string,
): Promise<Uint8Array | undefined> {
  if (!/^[0-9a-f]{64}$/.test(originSha256)) return undefined;
  const stored = (await witnessedLogs(db)).find(({ origin }) => sha256Hex(utf8(origin)) === originSha256);
  const kept = await memory?.at(`${originSha256}/checkpoint`);
  if (stored === undefined || kept === undefined) return kept ?? stored?.note;
  return cosignedText(parseNote(kept).text).size > stored.size ? kept : stored.note;
}

/** The text of anybody's checkpoint: lines of extensions may follow the three, and are cosigned with them. */
export function cosignedText(text: string): Checkpoint {
  return parseCheckpoint(
    text
      .split("\n", 3)
      .map((line) => `${line}\n`)
      .join(""),
  );
}
