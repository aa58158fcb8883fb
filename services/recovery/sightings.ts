import { CountersignError } from "../../lib/domain/errors.ts";
import type { VerifySignature } from "../../lib/domain/signing.ts";
import { openCheckpoint } from "../../lib/ledger/checkpoint.ts";
import { MAX_NOTE_BYTES, type NoteKey } from "../../lib/ledger/note.ts";
import { meetsQuorum, type TlogPolicy } from "../../lib/ledger/policy.ts";
import type { LedgerCopy } from "../ledger/copy.ts";
import type { Sighting } from "../ledger/sighting.ts";
import { witnessedPath } from "../witness/heads.ts";
import { bounded } from "../witness/ask.ts";
import type { SitePolicy } from "../witness/policy.ts";

const TIMEOUT_MS = 3_000;

export interface SightingsOptions {
  /** the log whose sightings are asked for */
  readonly log: NoteKey;
  readonly spki: Uint8Array;
  readonly verify: VerifySignature;
  readonly copy: LedgerCopy | undefined;
  /** the witnesses to ask; absent: none */
  readonly policy: SitePolicy | undefined;
}

/**
 * How far this ledger got, as its own copy and its witnesses know. They show the checkpoint itself, which only this
 * log's key can have signed: a witness can keep back what it knows, and can't make anything up.
 *
 * Witnesses that are out of reach hold nothing up where the copy is there, which is never behind. Without it, so many of
 * them have to answer that whatever was released was cosigned by one of them that tells: a database that was restored
 * looks like any other from within, and a witness may deny what it knows.
 * @throws CountersignError `witnesses-missing`, and `note-invalid` or `checkpoint-invalid` of a copy that isn't this log's
 */
export async function ledgerSightings(
  { log, spki, verify, copy, policy }: SightingsOptions,
  head: { readonly size: number },
): Promise<Sighting[]> {
  const own = await copy?.seen(log.name, spki, verify);
  const asked = await policy?.();
  const witnesses = [...(asked?.witnesses.values() ?? [])];
  const answers = await Promise.all(
    witnesses.map(async (key) => {
      const url = asked?.urls.get(key);
      const saw = url === undefined ? undefined : await askWhatItSaw(key.name, url, log, verify);
      return { key, saw };
    }),
  );
  const silent = answers.filter(({ saw }) => saw === undefined).map(({ key }) => key);
  const told = answers.filter(({ saw }) => saw !== undefined).map(({ key }) => key);
  if (own === undefined && head.size > 0 && asked !== undefined && !isTold(asked, told, silent)) {
    throw new CountersignError(
      "witnesses-missing",
      `ledger ${log.name} has no copy beside its database${copy ? ` (${copy.folder})` : ""}, and of its witnesses ` +
        `${told.length} of ${witnesses.length} answer (not ${silent.map(({ name }) => name).join(", ")}): too few to ` +
        "tell whether the database is whole, even if one of them denies what it knows; nothing is signed until more do",
    );
  }
  return [...(own ? [own] : []), ...answers.flatMap(({ saw }) => saw ?? [])];
}

/**
 * Would what was released be known to one of those who answered? Released is what a quorum has cosigned: it isn't known
 * where those who are silent, with one who denies it, make a quorum. Where all have answered nobody is left to ask.
 */
function isTold(policy: TlogPolicy, told: readonly NoteKey[], silent: readonly NoteKey[]): boolean {
  if (silent.length === 0) return true;
  return told.length > 0 && !told.some((liar) => meetsQuorum(policy, new Set([...silent, liar])));
}

/** Undefined: no answer. None: the witness says that it has seen nothing of the log. */
async function askWhatItSaw(
  name: string,
  url: string,
  log: NoteKey,
  verify: VerifySignature,
): Promise<Sighting[] | undefined> {
  try {
    const response = await fetch(`${url.replace(/\/$/, "")}/${witnessedPath(log.name)}`, {
      signal: AbortSignal.timeout(TIMEOUT_MS),
      redirect: "error",
    });
    if (response.status === 404) return [];
    if (response.status !== 200) return undefined;
    const { size, root } = await openCheckpoint(await bounded(response, MAX_NOTE_BYTES), log, verify);
    return [{ where: `the witness ${name}`, size, root }];
  } catch {
    return undefined;
  }
}
