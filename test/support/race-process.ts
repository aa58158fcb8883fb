import { fork, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { openToken, type TokenConfig } from "../../hsm/index.ts";
import { recordBuilt } from "../../services/issuing/built.ts";
import { issueBatch } from "../../services/issuing/certify.ts";
import { Acts } from "../../services/ledger/index.ts";
import { connect } from "../../store/db.ts";

/** For tests of real concurrency: another process of one site, with connections and a login of its own. */

export interface RaceSite {
  readonly party: string;
  readonly origin: string;
  readonly databaseUrl: string;
  readonly token: TokenConfig;
}

interface Work {
  readonly kind: "built" | "certify";
  readonly batches: readonly string[];
}
type ToRacer = { configure: RaceSite } | { run: Work };
type FromRacer = { ready: true } | { done: true } | { failed: string };

export class Racer {
  readonly #child: ChildProcess;

  private constructor(child: ChildProcess) {
    this.#child = child;
  }

  static async start(site: RaceSite): Promise<Racer> {
    const racer = new Racer(fork(fileURLToPath(import.meta.url), [], { execArgv: [] }));
    await racer.#ask({ configure: site });
    return racer;
  }

  /** All of these at once. */
  run(work: Work): Promise<void> {
    return this.#ask({ run: work });
  }

  async stop(): Promise<void> {
    const exited = once(this.#child, "exit");
    this.#child.disconnect();
    await exited;
  }

  async #ask(message: ToRacer): Promise<void> {
    const answer = once(this.#child, "message") as Promise<[FromRacer]>;
    this.#child.send(message);
    const gone = once(this.#child, "exit").then(() => [{ failed: "the process ended" }] as [FromRacer]);
    const [said] = await Promise.race([answer, gone]);
    if ("failed" in said) throw new Error(said.failed);
  }
}

async function racer(site: RaceSite): Promise<(work: Work) => Promise<void>> {
  const { party, origin } = site;
  const db = connect(site.databaseUrl, { max: 10 });
  const token = await openToken(site.token);
  const acts = new Acts({ db, origin, party });
  const caKey = await token.caKey("ca");
  const context = {
    ...{ db, acts, party, caKey: async () => caKey },
    crlUrl: (id: string) => `http://127.0.0.1:1/crl/${id}.crl`,
  };
  process.once("disconnect", () => {
    acts.close();
    void Promise.all([db.end(), token.close()]).finally(() => process.exit(0));
  });
  return async ({ kind, batches }) => {
    await Promise.all(batches.map((id) => (kind === "built" ? recordBuilt(context, id) : issueBatch(context, id))));
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  let run: ((work: Work) => Promise<void>) | undefined;
  process.on("message", (message: ToRacer) => {
    const work = async (): Promise<FromRacer> => {
      if ("configure" in message) {
        run = await racer(message.configure);
        return { ready: true };
      }
      await run!(message.run);
      return { done: true };
    };
    work().then(
      (answer) => process.send!(answer),
      (error: unknown) =>
        process.send!({ failed: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
    );
  });
}
