import { exchange } from "../../../services/exchange.ts";

export interface ClientFiles {
  readonly ca: string;
  readonly cert?: string;
  readonly key?: string;
}

const MAX_ANSWER_BYTES = 1 << 20;

/** One GET over HTTPS with exactly this CA trusted. Resolves with the status and body; rejects when there is no answer. */
export async function httpsGet(url: string, tls: ClientFiles, timeoutMs = 3_000) {
  const answer = await exchange({
    url: new URL(url),
    method: "GET",
    tls,
    timeoutMs,
    maxAnswerBytes: MAX_ANSWER_BYTES,
  });
  return { status: answer.status, body: Buffer.from(answer.body).toString("utf8") };
}
