import { CountersignError } from "../domain/errors.ts";
import type { FetchResource } from "./reader.ts";

/** Above a full entry bundle (16.8 MB): a blob may be the list of a large lot. */
const MAX_BYTES = 64 << 20;

/**
 * A log over HTTP(S), as tlog-tiles serves it below `base`. Bounded in size and time; redirects are refused, so that
 * what was pinned is what answers. Throws `component-unreachable` for anything but an answer of 200 or 404.
 */
export function httpSource(base: string, options: { timeoutMs?: number; fetch?: typeof fetch } = {}): FetchResource {
  const root = base.endsWith("/") ? base : `${base}/`;
  const get = options.fetch ?? fetch;
  return async (path) => {
    const url = new URL(path, root);
    const unreachable = (why: string, cause?: unknown): CountersignError =>
      new CountersignError("component-unreachable", `${url.href}: ${why}`, { cause });
    let response: Response;
    try {
      response = await get(url, { redirect: "error", signal: AbortSignal.timeout(options.timeoutMs ?? 15_000) });
    } catch (cause) {
      throw unreachable("no answer", cause);
    }
    if (response.status === 404) return undefined;
    if (response.status !== 200 || response.body === null) throw unreachable(`answered ${response.status}`);
    const chunks: Uint8Array[] = [];
    let length = 0;
    try {
      const body = response.body.getReader();
      for (let read = await body.read(); !read.done; read = await body.read()) {
        length += read.value.length;
        if (length > MAX_BYTES) {
          await body.cancel();
          throw unreachable(`answered more than ${MAX_BYTES} bytes`);
        }
        chunks.push(read.value);
      }
    } catch (cause) {
      throw unreachable("the answer broke off", cause);
    }
    const bytes = new Uint8Array(length);
    let at = 0;
    for (const chunk of chunks) {
      bytes.set(chunk, at);
      at += chunk.length;
    }
    return bytes;
  };
}
