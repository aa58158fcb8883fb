import { parentPort } from "node:worker_threads";
import ext2fs, { type Disk, type FileSystem } from "ext2fs";
import {
  PAGE,
  type FromThread,
  type Look,
  type Request,
  type Results,
  type ToThread,
  type Work,
} from "./ext4-protocol.ts";

/**
 * libext2fs on a thread of its own: whatever a hostile image makes of it (a hang, an abort) ends with the thread. It
 * never sees a file of this machine: it asks for ranges, and what it writes are pages in memory.
 */

const port = parentPort!;
const send = (message: FromThread): void => port.postMessage(message);
let onReply: ((reply: ToThread) => void) | undefined;

function ask(offset: number, length: number): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    onReply = (reply) => {
      onReply = undefined;
      if ("bytes" in reply) resolve(reply.bytes);
      else reject(new Error("unreadable" in reply ? reply.unreadable : "another request came"));
    };
    send({ read: { offset, length } });
  });
}

/** What the library reads lies close together: it is fetched in windows, a few of which are kept. */
const WINDOW = 32 * 1024;
const WINDOWS = 64;

/** The image below, pages that were written above it. */
class Overlay implements Disk {
  readonly pages = new Map<number, Buffer>();
  readonly #windows = new Map<number, Uint8Array>();
  readonly #size: number;

  constructor(size: number) {
    this.#size = size;
  }

  async read(into: Buffer, at: number, length: number, offset: number) {
    const from = Math.floor(offset / PAGE);
    const to = Math.ceil((offset + length) / PAGE);
    let covered = true;
    for (let page = from; page < to && covered; page++) covered = this.pages.has(page);
    if (!covered) into.set(await this.#base(offset, length), at);
    for (let page = from; page < to; page++) {
      const written = this.pages.get(page);
      if (written === undefined) continue;
      const start = Math.max(offset, page * PAGE);
      const end = Math.min(offset + length, (page + 1) * PAGE);
      written.copy(into, at + start - offset, start - page * PAGE, end - page * PAGE);
    }
    return { bytesRead: length, buffer: into };
  }

  async write(from: Buffer, at: number, length: number, offset: number) {
    if (offset < 0 || offset + length > this.#size) throw new Error("a write outside the file system");
    for (let done = 0; done < length;) {
      const page = Math.floor((offset + done) / PAGE);
      const start = offset + done - page * PAGE;
      const part = Math.min(PAGE - start, length - done);
      let bytes = this.pages.get(page);
      if (bytes === undefined) {
        bytes = Buffer.alloc(PAGE);
        if (part < PAGE) bytes.set(await this.#base(page * PAGE, Math.min(PAGE, this.#size - page * PAGE)));
        this.pages.set(page, bytes);
      }
      from.copy(bytes, start, at + done, at + done + part);
      done += part;
    }
    return { bytesWritten: length, buffer: from };
  }

  async discard(): Promise<void> {}
  async flush(): Promise<void> {}

  async #base(offset: number, length: number): Promise<Uint8Array> {
    if (offset < 0 || length < 0 || offset + length > this.#size) throw new Error("a read outside the file system");
    const number = Math.floor(offset / WINDOW);
    const start = offset - number * WINDOW;
    if (start + length > WINDOW) return await ask(offset, length);
    let window = this.#windows.get(number);
    if (window === undefined) {
      window = await ask(number * WINDOW, Math.min(WINDOW, this.#size - number * WINDOW));
      if (this.#windows.size >= WINDOWS) this.#windows.clear();
      this.#windows.set(number, window);
    }
    return window.subarray(start, start + length);
  }
}

type Files = FileSystem["promises"];

async function look(fs: Files, { path, limit }: Look): Promise<Results["look"]> {
  const parent = path.slice(0, path.lastIndexOf("/")) || "/";
  const stats = await unlessMissing(fs.stat(parent));
  if (stats === undefined) return { directory: "missing", file: "missing" };
  if (!stats.isDirectory()) return { directory: "no-directory", file: "missing" };
  const directory = await fs.readdir(parent);
  if (!directory.includes(path.slice(path.lastIndexOf("/") + 1))) return { directory, file: "missing" };
  return { directory, file: await readFile(fs, path, limit) };
}

/** Not through a link: the name itself must be the file. */
async function readFile(fs: Files, path: string, limit: number): Promise<Results["look"]["file"]> {
  const { fd } = await fs.open(path, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW, 0);
  try {
    const stats = await fs.fstat(fd);
    if (!stats.isFile()) return "no-file";
    const { mode, size } = stats;
    if (size > limit) return { mode, size };
    const bytes = Buffer.alloc(size);
    const { bytesRead } = await fs.read(fd, bytes, 0, size, 0);
    if (bytesRead !== size) throw new Error(`${path} has ${size} bytes and gave ${bytesRead}`);
    return { mode, size, bytes: new Uint8Array(bytes) };
  } finally {
    await fs.close(fd);
  }
}

async function write(fs: Files, path: string, mode: number, bytes: Uint8Array): Promise<void> {
  const { O_WRONLY, O_CREAT, O_EXCL } = fs.constants;
  await unlessMissing(fs.unlink(path));
  const { fd } = await fs.open(path, O_WRONLY | O_CREAT | O_EXCL, mode);
  try {
    // What `open` was told is narrowed by the mode mask of the process.
    await fs.fchmod(fd, mode);
    const { bytesWritten } = await fs.write(fd, Buffer.from(bytes), 0, bytes.length, 0);
    if (bytesWritten !== bytes.length) throw Object.assign(new Error("the file system is full"), { code: "ENOSPC" });
  } finally {
    await fs.close(fd);
  }
}

const MAX_ENTRIES = 50_000;
const MAX_DEPTH = 32;
/** All trust anchors of a gateway are a few hundred KB; one file can have any number of names. */
const MAX_FOUND_BYTES = 4 << 20;

/** Regular files that begin as certificates do; cut short where they are too many. */
async function search(fs: Files, limit: number): Promise<Results["search"]> {
  const files: { path: string; bytes: Uint8Array }[] = [];
  let left = MAX_ENTRIES;
  let found = 0;
  const walk = async (folder: string, depth: number): Promise<void> => {
    for (const name of await fs.readdir(folder)) {
      if (name === "." || name === ".." || found > MAX_FOUND_BYTES || left-- <= 0) continue;
      const path = `${folder === "/" ? "" : folder}/${name}`;
      const { fd } = await fs.open(path, fs.constants.O_RDONLY | fs.constants.O_NOFOLLOW, 0);
      const stats = await fs.fstat(fd);
      await fs.close(fd);
      if (stats.isDirectory() && depth < MAX_DEPTH) await walk(path, depth + 1);
      if (!stats.isFile() || stats.size === 0 || stats.size > limit) continue;
      const file = await readFile(fs, path, limit);
      if (typeof file !== "string" && file.bytes !== undefined && mayBeChain(file.bytes)) {
        files.push({ path, bytes: file.bytes });
        found += file.bytes.length;
      }
    }
  };
  await walk("/", 0);
  return { files, more: found > MAX_FOUND_BYTES };
}

/** A certificate has more than 255 bytes, so its length takes two. */
function mayBeChain(bytes: Uint8Array): boolean {
  return (
    (bytes[0] === 0x30 && bytes[1] === 0x82) ||
    Buffer.from(bytes.subarray(0, 27)).equals(Buffer.from("-----BEGIN CERTIFICATE-----"))
  );
}

async function unlessMissing<T>(done: Promise<T>): Promise<T | undefined> {
  try {
    return await done;
  } catch (error) {
    if ((error as { code?: unknown }).code === "ENOENT") return undefined;
    throw error;
  }
}

async function perform(work: Work, disk: Overlay): Promise<Results[Work["op"]]> {
  const mounted = await ext2fs.mount(disk);
  let value: Results["look"] | Results["search"] | undefined;
  try {
    if (work.op === "write") await write(mounted.promises, work.path, work.mode, work.bytes);
    else if (work.op === "look") value = await look(mounted.promises, work);
    else value = await search(mounted.promises, work.limit);
  } finally {
    await ext2fs.umount(mounted);
  }
  const pages = [...disk.pages].sort(([a], [b]) => a - b);
  return value ?? { pages: pages.map(([page, bytes]) => [page, new Uint8Array(bytes)] as const) };
}

/** libext2fs's own codes (ext2_err.et) for no free block, inode or place in the directory; the base is 2133571328. */
const NO_SPACE: readonly unknown[] = [2133571400, 2133571401, 2133571366];

function failure(error: unknown): FromThread {
  const { code, errno, message } = error as { code?: unknown; errno?: unknown; message?: unknown };
  const full = code === "ENOSPC" || NO_SPACE.includes(errno);
  const sound = full || typeof errno === "number";
  const what = typeof errno === "number" ? `libext2fs says ${String(code)} (${errno})` : String(message ?? error);
  return { failed: { full, sound, message: what.slice(0, 200) } };
}

port.on("message", (message: ToThread) => {
  if (!("work" in message)) return onReply?.(message);
  const { work, size, clock }: Request = message;
  // The module's clock, in this thread alone: the same chain into the same image gives the same bytes.
  Date.now = () => clock * 1000;
  perform(work, new Overlay(size)).then(
    (value) => send({ value }),
    (error: unknown) => send(failure(error)),
  );
});
