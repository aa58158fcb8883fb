import { CountersignError } from "../../lib/domain/errors.ts";
import type { VerifySignature } from "../../lib/domain/signing.ts";
import { formatAddCheckpoint, TLOG_SIZE_MEDIA_TYPE } from "../../lib/ledger/add-checkpoint.ts";
import { parseDecimal } from "../../lib/ledger/checkpoint.ts";
import { parseSignatureLines, verifyCosignatures, type Cosignature } from "../../lib/ledger/cosignature.ts";
import { parseNote, type NoteKey } from "../../lib/ledger/note.ts";

/** Signature lines of a witness with many keys stay below it. */
const MAX_ANSWER_BYTES = 64 * 1024;
/** Another client of the same log may be ahead by one each time; a witness that always disagrees is at fault. */
const MAX_TRIES = 4;

export interface Ask {
  readonly key: NoteKey;
  /** submission prefix */
  readonly url: string;
  /** what the witness has seen of this log, as far as is known */
  readonly oldSize: number;
  /** of the checkpoint to be cosigned */
  readonly size: number;
  /** its note */
  readonly checkpoint: Uint8Array;
  readonly proofFrom: (oldSize: number) => Promise<readonly Uint8Array[]>;
  readonly verify: VerifySignature;
  readonly timeoutMs: number;
  readonly signal?: AbortSignal;
}

/**
 * Asks a witness for its cosignature (C2SP tlog-witness, add-checkpoint), again from where it stands when it says so.
 * @throws CountersignError `component-unreachable` (no answer, or none that the specification knows), `ledger-forked`
 *   when the witness has seen more of this log than there is, or other entries: this log was rolled back or forked
 */
export async function askWitness(ask: Ask): Promise<Cosignature> {
  const { key, size } = ask;
  let { oldSize } = ask;
  for (let tries = 0; tries < MAX_TRIES; tries++) {
    if (oldSize > size) {
      throw new CountersignError(
        "ledger-forked",
        `the witness ${key.name} has seen ${oldSize} entries of this log, which has ${size}: was it rolled back?`,
      );
    }
    const answer = await post(ask, oldSize);
    if (answer.status === 200) return cosignatureIn(ask, answer.body);
    const text = new TextDecoder().decode(answer.body.subarray(0, 300)).trim();
    const at = answer.status === 409 && answer.type === TLOG_SIZE_MEDIA_TYPE ? parseDecimal(text) : undefined;
    if (at === undefined && answer.status !== 409 && answer.status !== 422) {
      throw unreachable(ask, `answered ${answer.status}: ${text}`);
    }
    if (answer.status === 422 || at === undefined || at === oldSize) {
      // It stands where the proof begins, and doesn't take it: what it has seen up to there is something else.
      throw new CountersignError(
        "ledger-forked",
        `the witness ${key.name} has seen other entries of this log: answered ${answer.status} from ${oldSize} to ${size}: ${text}`,
      );
    }
    oldSize = at;
  }
  throw unreachable(ask, "never stood where it had said it did");
}

async function cosignatureIn(ask: Ask, body: Uint8Array): Promise<Cosignature> {
  const { text } = parseNote(ask.checkpoint);
  let found: Cosignature | undefined;
  try {
    [found] = await verifyCosignatures(text, parseSignatureLines(body), [ask.key], ask.verify);
  } catch (cause) {
    throw unreachable(ask, `answered what is no cosignature: ${(cause as Error).message}`, cause);
  }
  if (found === undefined) throw unreachable(ask, `answered no cosignature by ${ask.key.name}`);
  return found;
}

interface Answer {
  readonly status: number;
  readonly type: string;
  readonly body: Uint8Array;
}

async function post(ask: Ask, oldSize: number): Promise<Answer> {
  const proof = oldSize === 0 || oldSize === ask.size ? [] : await ask.proofFrom(oldSize);
  const body = formatAddCheckpoint({ oldSize, proof, checkpoint: ask.checkpoint });
  const timeout = AbortSignal.timeout(ask.timeoutMs);
  try {
    const response = await fetch(`${ask.url.replace(/\/$/, "")}/add-checkpoint`, {
      method: "POST",
      body: body as Uint8Array<ArrayBuffer>,
      headers: { "content-type": "text/plain; charset=utf-8" },
      redirect: "error",
      signal: ask.signal === undefined ? timeout : AbortSignal.any([ask.signal, timeout]),
    });
    const type = response.headers.get("content-type")?.split(";")[0]?.trim() ?? "";
    return { status: response.status, type, body: await bounded(response, MAX_ANSWER_BYTES) };
  } catch (cause) {
    if (cause instanceof CountersignError) throw cause;
    throw unreachable(ask, "no answer", cause);
  }
}

/** An answer's body. @throws RangeError when it has more bytes: the rest isn't read */
export async function bounded(response: Response, limit: number): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let length = 0;
  for await (const part of response.body ?? []) {
    length += (part as Uint8Array).length;
    if (length > limit) throw new RangeError(`more than ${limit} bytes`);
    parts.push(part as Uint8Array);
  }
  return Buffer.concat(parts);
}

function unreachable({ key, url }: Ask, why: string, cause?: unknown): CountersignError {
  const reason =
    cause instanceof Error ? ` (${cause.cause instanceof Error ? cause.cause.message : cause.message})` : "";
  return new CountersignError("component-unreachable", `the witness ${key.name} at ${url}: ${why}${reason}`, { cause });
}
