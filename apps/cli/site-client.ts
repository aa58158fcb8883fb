import { readFile } from "node:fs/promises";
import { Agent } from "node:https";
import { join, resolve } from "node:path";
import { z } from "zod";
import { CountersignError } from "../../lib/domain/errors.ts";
import { PARTY_ID } from "../../lib/domain/ids.ts";
import { call, type Call, jsonOf, type Peer } from "./peer.ts";

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
  readonly #peer: Peer;

  private constructor(party: string, url: string, from: { folder: string; role: ClientRole }, agent: Agent) {
    this.party = party;
    this.url = url;
    this.folder = from.folder;
    this.role = from.role;
    this.#peer = { name: `the gateway of ${party}`, url, agent, maxAnswer: MAX_ANSWER_BYTES };
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
    return jsonOf<T>(this.#peer, await this.send("GET", path, undefined, options));
  }

  async post<T = unknown>(path: string, body: unknown, options?: CallOptions): Promise<T> {
    const sent = { text: JSON.stringify(body), type: "application/json" };
    return jsonOf<T>(this.#peer, await this.send("POST", path, sent, options));
  }

  async postNdjson<T = unknown>(path: string, lines: Iterable<unknown>, options?: CallOptions): Promise<T> {
    let text = "";
    for (const line of lines) text += `${JSON.stringify(line)}\n`;
    return jsonOf<T>(this.#peer, await this.send("POST", path, { text, type: "application/x-ndjson" }, options));
  }

  async getBytes(path: string, options?: CallOptions): Promise<Uint8Array> {
    return this.send("GET", path, undefined, options);
  }

  /**
   * Asks again and again until `done` says yes.
   * @throws CountersignError `timeout`; `witnesses-missing` when that is what the answer waits for
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
        const waiting = (answer as { error?: { code: string; message: string } }).error;
        if (waiting?.code === "witnesses-missing") throw new CountersignError(waiting.code, waiting.message);
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
    this.#peer.agent.destroy();
  }

  private send(
    method: string,
    path: string,
    body: Call["body"] | undefined,
    options: CallOptions = {},
  ): Promise<Uint8Array> {
    return call(this.#peer, { method, path, ...(body === undefined ? {} : { body }), ...options });
  }
}
