import type { NoteKey } from "../../lib/ledger/note.ts";
import { parseVkey } from "../../lib/ledger/note.ts";
import type { Db } from "../../store/db.ts";
import { listPeers } from "../../store/parties.ts";

/**
 * The logs that this site's witness cosigns: those of its parent and children, as they were pinned when they came, and
 * those of its configuration. Asked again for every request: a party that has just joined is known at once.
 */
export function witnessedLogKeys(db: Db, configured: readonly NoteKey[]): (origin: string) => Promise<NoteKey[]> {
  return async (origin) => {
    const keys = configured.filter((key) => key.name === origin);
    for (const { contact } of await listPeers(db)) {
      if (contact.origin !== origin) continue;
      const key = parseVkey(contact.vkey);
      if (!keys.some((other) => other.keyId === key.keyId)) keys.push(key);
    }
    return keys;
  };
}
