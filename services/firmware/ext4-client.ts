import { Worker } from "node:worker_threads";
import { CountersignError } from "../../lib/domain/errors.ts";
import type { RangeReader } from "../../lib/firmware/index.ts";
import type { FromThread, Request, Results, ToThread, Work } from "./ext4-protocol.ts";

/** Far longer than any image takes; a hang is ended with its thread. */
const TIMEOUT_MS = 30_000;

/** The library loses some 40 KB with each piece of work. */
const WORK_A_THREAD = 500;

/** Megabytes for what the library answers: a folder of a crafted image can have names without end. */
const HEAP_MB = 256;

let thread: FileSystemThread | undefined;
let turn: Promise<unknown> = Promise.resolve();

/**
 * One piece of work on the file system in `reader`, one after the other: the library has one state for all.
 * @param clock seconds since 1970, which files made now are dated with
 * @returns undefined where the file system is full
 * @throws CountersignError `image-invalid` for a file system that the library refuses, fails or hangs on
 */
export function withFileSystem<W extends Work>(
  reader: RangeReader,
  clock: number,
  work: W,
): Promise<Results[W["op"]] | undefined> {
  const done = turn.then(() => run(reader, { work, size: reader.size, clock }));
  turn = done.catch(() => undefined);
  return done as Promise<Results[W["op"]] | undefined>;
}

async function run(reader: RangeReader, request: Request): Promise<Results[Work["op"]] | undefined> {
  const current = (thread ??= new FileSystemThread());
  let end: End;
  try {
    end = await current.run(reader, request);
  } catch (error) {
    end = { failed: { full: false, sound: false, message: (error as Error).message } };
  }
  // A module that failed can't be trusted any more: the next image gets a new thread.
  if (("failed" in end && !end.failed.sound) || current.done >= WORK_A_THREAD) {
    thread = undefined;
    current.end();
  }
  if ("value" in end) return end.value;
  if (end.failed.full) return undefined;
  throw invalid(end.failed.message);
}

type End = Exclude<FromThread, { readonly read: unknown }>;

class FileSystemThread {
  readonly #worker = new Worker(new URL("ext4-thread.ts", import.meta.url), {
    resourceLimits: { maxOldGenerationSizeMb: HEAP_MB },
  });
  #onMessage: ((message: FromThread) => void) | undefined;
  #onEnd: ((why: Error) => void) | undefined;
  /** pieces of work */
  done = 0;

  constructor() {
    this.#worker.on("message", (message: FromThread) => this.#onMessage?.(message));
    this.#worker.on("error", (error: Error) => this.#onEnd?.(error));
    this.#worker.on("exit", () => this.#onEnd?.(new Error("its thread ended")));
  }

  /** @throws Error when the thread fails or isn't done in time */
  async run(reader: RangeReader, request: Request): Promise<End> {
    this.#worker.ref();
    let timer: NodeJS.Timeout | undefined;
    try {
      return await new Promise<End>((resolve, reject) => {
        timer = setTimeout(() => reject(new Error(`it isn't done after ${TIMEOUT_MS / 1000} s`)), TIMEOUT_MS);
        this.#onEnd = reject;
        this.#onMessage = (message) => {
          if ("read" in message) void this.#answer(reader, message.read);
          else resolve(message);
        };
        this.#worker.postMessage(request satisfies ToThread);
      });
    } finally {
      clearTimeout(timer);
      this.#onMessage = undefined;
      this.#onEnd = undefined;
      this.done++;
      this.#worker.unref();
    }
  }

  end(): void {
    void this.#worker.terminate();
  }

  async #answer(reader: RangeReader, { offset, length }: { offset: number; length: number }): Promise<void> {
    try {
      // A copy of its own: what the reader gives may be a view of the whole image.
      const bytes = new Uint8Array(await reader.read(offset, length));
      this.#worker.postMessage({ bytes } satisfies ToThread, [bytes.buffer]);
    } catch (error) {
      const unreadable = error instanceof Error ? error.message : String(error);
      this.#worker.postMessage({ unreadable } satisfies ToThread);
    }
  }
}

function invalid(why: string): CountersignError {
  return new CountersignError("image-invalid", `the ext4 file system can't be used: ${why}; check it with e2fsck -fn`);
}
