import { request } from "node:https";

export interface ClientFiles {
  readonly ca: string;
  readonly cert?: string;
  readonly key?: string;
}

/** One GET over HTTPS with exactly this CA trusted. Resolves with the status and body; rejects when there is no answer. */
export function httpsGet(url: string, tls: ClientFiles, timeoutMs = 3_000): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const call = request(url, { ...tls, agent: false, timeout: timeoutMs }, (response) => {
      let body = "";
      response.setEncoding("utf8");
      response.on("data", (part: string) => (body += part));
      response.on("end", () => resolve({ status: response.statusCode ?? 0, body }));
      response.on("error", reject);
    });
    call.on("timeout", () => call.destroy(new Error("no answer in time")));
    call.on("error", reject);
    call.end();
  });
}
