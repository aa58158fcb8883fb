import { type Agent, request } from "node:https";
import { z } from "zod";
import { ERROR_KINDS, type ErrorCode } from "../../lib/domain/error-codes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";

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

const problem = z.object({
  code: z.string(),
  detail: z.string(),
  details: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])).optional(),
});

/**
 * One HTTPS request and its whole answer.
 * @throws CountersignError the server's own refusal by its code, `component-unreachable` without an answer, `internal`
 *   for one that isn't Countersign's
 */
export function exchange(peer: Peer, { method, path, body, timeoutMs = 60_000 }: Call): Promise<Uint8Array> {
  const where = `${peer.url}${path}`;
  return new Promise((done, fail) => {
    const lost = (cause: Error): void => fail(unreachable(peer, cause));
    const headers =
      body === undefined ? {} : { "content-type": body.type, "content-length": Buffer.byteLength(body.text) };
    const call = request(where, { method, agent: peer.agent, headers }, (response) => {
      const parts: Uint8Array[] = [];
      let size = 0;
      response.on("data", (part: Uint8Array) => {
        size += part.length;
        if (size > peer.maxAnswer) response.destroy(new Error("the answer is too long"));
        else parts.push(part);
      });
      response.on("error", lost);
      response.on("end", () => {
        const bytes = Buffer.concat(parts);
        const status = response.statusCode ?? 0;
        if (status >= 200 && status < 300) done(bytes);
        else fail(problemError(status, bytes, `${method} ${where}`));
      });
    });
    call.setTimeout(timeoutMs, () => call.destroy(new Error("no answer in time")));
    call.on("error", lost);
    call.end(body?.text);
  });
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

/** The server's own error, with its code; anything else it says is an internal error. */
function problemError(status: number, body: Uint8Array, where: string): CountersignError {
  try {
    const { code, detail, details } = problem.parse(JSON.parse(Buffer.from(body).toString("utf8")));
    if (Object.hasOwn(ERROR_KINDS, code)) {
      return new CountersignError(code as ErrorCode, detail, details === undefined ? {} : { details });
    }
  } catch {
    // Not a problem document.
  }
  return new CountersignError("internal", `${where} answered ${status} without a problem document`);
}
