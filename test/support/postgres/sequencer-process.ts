import { fork, type ChildProcess } from "node:child_process";
import { createPrivateKey, createPublicKey, type KeyObject } from "node:crypto";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { nodeVerify } from "../../../hsm/verify.ts";
import { fromBase64, toBase64 } from "../../../lib/domain/bytes.ts";
import { actKey } from "../../../services/ledger/admission.ts";
import { Sequencer } from "../../../services/ledger/sequencer.ts";
import { connect } from "../../../store/db.ts";
import { testKeyOf } from "../memory-log.ts";

/** A sequencer in a process of its own, which stops at one point of its way and waits there to be killed. */
export type Point = "written" | "committed" | "signed" | "stored";
export const POINTS: readonly Point[] = ["written", "committed", "signed", "stored"];

interface Settings {
  readonly databaseUrl: string;
  readonly origin: string;
  /** PKCS#8 PEM of the throwaway log key */
  readonly logKey: string;
  /** base64 SPKI */
  readonly actSpki: string;
  readonly point: Point;
}
interface Reached {
  readonly point: Point;
  readonly size: number;
  /** base64, once there is one */
  readonly note?: string;
}

export class SequencerProcess {
  readonly #child: ChildProcess;
  readonly #reached: Promise<unknown[]>;

  constructor(settings: Omit<Settings, "logKey" | "actSpki"> & { logKey: KeyObject; actSpki: Uint8Array }) {
    this.#child = fork(fileURLToPath(import.meta.url), [], { execArgv: [] });
    this.#reached = once(this.#child, "message");
    const logKey = settings.logKey.export({ format: "pem", type: "pkcs8" }) as string;
    this.#child.send({ ...settings, logKey, actSpki: toBase64(settings.actSpki) } satisfies Settings);
  }

  /** Resolves when it stands at its point, with a batch in hand. */
  async reached(): Promise<{ size: number; note: Uint8Array | undefined }> {
    const ended = once(this.#child, "exit").then(() => [undefined]);
    const [at] = (await Promise.race([this.#reached, ended])) as [Reached | undefined];
    if (at === undefined) throw new Error("the sequencer's process ended by itself");
    return { size: at.size, note: at.note === undefined ? undefined : fromBase64(at.note) };
  }

  async kill(): Promise<void> {
    const exited = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await exited;
  }

  /** It stands still, with its connections open, as a machine that hangs. */
  freeze(): void {
    this.#child.kill("SIGSTOP");
  }
}

function run({ databaseUrl, origin, logKey, actSpki, point }: Settings): void {
  const key = createPrivateKey(logKey);
  const spki = createPublicKey(key).export({ format: "der", type: "spki" });
  let start = -1;
  const stop = async (here: Point, size: number, note?: Uint8Array): Promise<void> => {
    if (here !== point || size <= start) return;
    process.send!({ point, size, ...(note ? { note: toBase64(note) } : {}) } satisfies Reached);
    await new Promise(() => undefined);
  };
  const db = connect(databaseUrl, { max: 2 });
  void (async () => {
    start = (await db.query<{ size: number }>("SELECT size FROM ledger_head")).rows[0]!.size;
    new Sequencer({
      db,
      origin,
      signer: testKeyOf(key, new Uint8Array(spki)),
      actKeys: () => [actKey(fromBase64(actSpki), "ecdsa-p256-sha256")],
      verify: nodeVerify,
      sessionTimeoutMs: 1000,
      seam: {
        beforeCommit: (size) => stop("written", size),
        beforeSign: (size) => stop("committed", size),
        beforeStore: (size, note) => stop("signed", size, note),
      },
      onCheckpoint: ({ size, note }) => void stop("stored", size, note),
      onError: (error) => console.error(error),
    }).start();
  })();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  process.on("message", (settings: Settings) => run(settings));
  process.on("disconnect", () => process.exit(0));
}
