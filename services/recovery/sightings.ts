import { CountersignError } from "../../lib/domain/errors.ts";
import type { VerifySignature } from "../../lib/domain/signing.ts";
import { openCheckpoint } from "../../lib/ledger/checkpoint.ts";
import { MAX_NOTE_BYTES, type NoteKey } from "../../lib/ledger/note.ts";
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
 * Witnesses that are out of reach hold nothing up where the copy is there, which is never behind. Without it, one of
 * them has to answer: a database that was restored looks like any other from within.
 * @throws CountersignError `witnesses-missing`, and `note-invalid` or `checkpoint-invalid` of a copy that isn't this log's
 */
export async function ledgerSightings(
  { log, spki, verify, copy, policy }: SightingsOptions,
  head: { readonly size: number },
): Promise<Sighting[]> {
  const own = await copy?.seen(log.name, spki, verify);
  const witnesses = [...((await policy?.())?.urls ?? [])];
  const answers = await Promise.all(witnesses.map(([key, url]) => askWhatItSaw(key.name, url, log, verify)));
  const answered = answers.filter((answer) => answer !== undefined);
  if (own === undefined && head.size > 0 && witnesses.length > 0 && answered.length === 0) {
    throw new CountersignError(
      "witnesses-missing",
      `ledger ${log.name} has no copy beside its database${copy ? ` (${copy.folder})` : ""}, and none of its witnesses ` +
        "answers: whether the database is whole can't be told, so nothing is signed until one does",
    );
  }
  return [...(own ? [own] : []), ...answered.flat()];
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
