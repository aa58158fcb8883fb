import type { Agent } from "node:https";
import { CountersignError } from "../../lib/domain/errors.ts";
import { exchange, problemOf } from "../site/exchange.ts";

export interface Peer {
  /** for messages: `the gateway of factory-y` */
  readonly name: string;
  /** without a slash at its end */
  readonly url: string;
  readonly agent: Agent;
  /** bytes of an answer; a longer one is cut off */
  readonly maxAnswer: number;
}

export interface Call {
  readonly method: string;
  readonly path: string;
  readonly body?: { readonly text: string; readonly type: string };
  /** Milliseconds without any byte before the call fails; 60 s unless given. */
  readonly timeoutMs?: number | undefined;
}

/**
 * One request and its whole answer.
 * @throws CountersignError the server's own refusal by its code, `component-unreachable` without an answer, `internal`
 *   for one that isn't Countersign's
 */
export async function call(peer: Peer, { method, path, body, timeoutMs = 60_000 }: Call): Promise<Uint8Array> {
  const url = new URL(`${peer.url}${path}`);
  const answer = await exchange({
    url,
    method,
    agent: peer.agent,
    body: body === undefined ? undefined : { bytes: body.text, type: body.type },
    timeoutMs,
    maxAnswerBytes: peer.maxAnswer,
  }).catch((cause: unknown) => {
    throw unreachable(peer, cause as Error);
  });
  if (answer.status >= 200 && answer.status < 300) return answer.body;
  const message = `${method} ${url.href} answered ${answer.status} without a problem document`;
  throw problemOf(answer) ?? new CountersignError("internal", message);
}

/** An answer that should be JSON. @throws CountersignError `internal` */
export function jsonOf<T>(peer: Peer, bytes: Uint8Array): T {
  try {
    return JSON.parse(Buffer.from(bytes).toString("utf8")) as T;
  } catch (cause) {
    throw new CountersignError("internal", `the answer of ${peer.name} isn't JSON`, { cause });
  }
}

function unreachable({ name, url }: Peer, cause: Error): CountersignError {
  const message = `${name} at ${url} doesn't answer (${cause.message}): is the stack up? See \`countersign status\``;
  return new CountersignError("component-unreachable", message, { cause });
}
