import { readFile } from "node:fs/promises";
import { Agent, request } from "node:https";
import { join, resolve } from "node:path";
import { z } from "zod";
import { ERROR_KINDS, type ErrorCode } from "../../lib/domain/error-codes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { PARTY_ID } from "../../lib/domain/ids.ts";

/** Whose client certificate is shown; each is a file pair `infra/<role>.pem`, `infra/<role>.key` of the site. */
export type ClientRole = "operator" | "station" | "technician";

export interface SiteClientOptions {
  role?: ClientRole;
  /** The state folder; COUNTERSIGN_HOME or `.countersign` unless given. */
  home?: string;
}

export interface CallOptions {
  /** Milliseconds without any byte before the call fails; 60 s unless given. */
  timeoutMs?: number;
}

const siteFile = z.object({ party: z.string(), gateway: z.object({ url: z.url() }) });
const problem = z.object({
  code: z.string(),
  detail: z.string(),
  details: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])).optional(),
});

const MAX_ANSWER_BYTES = 256 << 20;

export function stateFolder(): string {
  return resolve(process.env["COUNTERSIGN_HOME"] ?? ".countersign");
}

/** One site's gateway as its operator or station sees it: HTTPS with a client certificate, JSON in and out. */
export class SiteClient {
  readonly party: string;
  readonly url: string;
  /** The site's state folder, and whose certificate in it is shown. */
  readonly folder: string;
  readonly role: ClientRole;
  readonly #agent: Agent;

  private constructor(party: string, url: string, from: { folder: string; role: ClientRole }, agent: Agent) {
    this.party = party;
    this.url = url;
    this.folder = from.folder;
    this.role = from.role;
    this.#agent = agent;
  }

  /** @throws CountersignError `input-invalid`, `component-missing` when there is no such site under the state folder */
  static async open(party: string, options: SiteClientOptions = {}): Promise<SiteClient> {
    if (!PARTY_ID.test(party)) throw new CountersignError("input-invalid", `${JSON.stringify(party)} is no party ID`);
    const folder = join(options.home ?? stateFolder(), party);
    const role = options.role ?? "operator";
    try {
      const [config, ca, cert, key] = await Promise.all(
        ["site.json", "infra/ca.pem", `infra/${role}.pem`, `infra/${role}.key`].map((name) =>
          readFile(join(folder, name), "utf8"),
        ),
      );
      const site = siteFile.parse(JSON.parse(config ?? ""));
      // The site's own infrastructure CA alone: a public CA's certificate for the same address is a stranger's.
      const agent = new Agent({ ca, cert, key, keepAlive: true, maxSockets: 8, maxCachedSessions: 0 });
      return new SiteClient(site.party, site.gateway.url.replace(/\/$/, ""), { folder, role }, agent);
    } catch (cause) {
      throw new CountersignError(
        "component-missing",
        `no usable site ${party} under ${folder} (${(cause as Error).message}): start the stack with \`countersign up\``,
        { cause },
      );
    }
  }

  async get<T = unknown>(path: string, options?: CallOptions): Promise<T> {
    return json<T>(await this.send("GET", path, undefined, undefined, options));
  }

  async post<T = unknown>(path: string, body: unknown, options?: CallOptions): Promise<T> {
    return json<T>(await this.send("POST", path, JSON.stringify(body), "application/json", options));
  }

  async postNdjson<T = unknown>(path: string, lines: Iterable<unknown>, options?: CallOptions): Promise<T> {
    let body = "";
    for (const line of lines) body += `${JSON.stringify(line)}\n`;
    return json<T>(await this.send("POST", path, body, "application/x-ndjson", options));
  }

  async getBytes(path: string, options?: CallOptions): Promise<Uint8Array> {
    return this.send("GET", path, undefined, undefined, options);
  }

  /**
   * Asks again and again until `done` says yes.
   * @throws CountersignError `timeout`
   */
  async poll<T>(
    path: string,
    done: (answer: T) => boolean,
    options: { timeoutMs?: number; everyMs?: number; what?: string } = {},
  ): Promise<T> {
    const deadline = Date.now() + (options.timeoutMs ?? 60_000);
    for (;;) {
      const answer = await this.get<T>(path);
      if (done(answer)) return answer;
      if (Date.now() > deadline) {
        throw new CountersignError(
          "timeout",
          `${options.what ?? path} at ${this.party} isn't done yet; ask again later`,
        );
      }
      await new Promise((wake) => setTimeout(wake, options.everyMs ?? 100));
    }
  }

  /** Closes idle connections. */
  close(): void {
    this.#agent.destroy();
  }

  private send(
    method: string,
    path: string,
    body: string | undefined,
    type: string | undefined,
    options: CallOptions = {},
  ): Promise<Uint8Array> {
    return new Promise((done, fail) => {
      const headers = body === undefined ? {} : { "content-type": type, "content-length": Buffer.byteLength(body) };
      const call = request(`${this.url}${path}`, { method, agent: this.#agent, headers }, (response) => {
        const parts: Uint8Array[] = [];
        let size = 0;
        response.on("data", (part: Uint8Array) => {
          size += part.length;
          if (size > MAX_ANSWER_BYTES) response.destroy(new Error("the answer is too long"));
          else parts.push(part);
        });
        response.on("error", (cause) => fail(this.unreachable(cause)));
        response.on("end", () => {
          const bytes = Buffer.concat(parts);
          const status = response.statusCode ?? 0;
          if (status >= 200 && status < 300) done(bytes);
          else fail(problemError(status, bytes, `${method} ${this.url}${path}`));
        });
      });
      call.setTimeout(options.timeoutMs ?? 60_000, () => call.destroy(new Error("no answer in time")));
      call.on("error", (cause) => fail(this.unreachable(cause)));
      call.end(body);
    });
  }

  private unreachable(cause: Error): CountersignError {
    return new CountersignError(
      "component-unreachable",
      `the gateway of ${this.party} at ${this.url} doesn't answer (${cause.message}): is the stack up? See \`countersign status\``,
      { cause },
    );
  }
}

function json<T>(bytes: Uint8Array): T {
  try {
    return JSON.parse(Buffer.from(bytes).toString("utf8")) as T;
  } catch (cause) {
    throw new CountersignError("internal", "the gateway's answer isn't JSON", { cause });
  }
}

/** The server's own error, with its code; anything else it says is an internal error. */
export function problemError(status: number, body: Uint8Array, where: string): CountersignError {
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
