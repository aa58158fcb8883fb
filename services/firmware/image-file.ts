import { createHash } from "node:crypto";
import { constants, copyFile, open, rm, writeFile, type FileHandle } from "node:fs/promises";
import { CountersignError } from "../../lib/domain/errors.ts";
import { applyPatches, bytesReader, PieceReader, type Patch, type RangeReader } from "../../lib/firmware/index.ts";
import { sha256Hex } from "../ledger/sha256.ts";

/**
 * Image files of any size. Small ones are held while they are used, large ones stay on disk and are read and written in
 * pieces: a batch never holds a large image.
 */

/** What is held; a batch works on several images at once. */
export const HELD_BYTES = 4 << 20;
const PIECE = 1 << 20;

export interface ImageFile extends RangeReader {
  readonly path: string;
  /** the content, where it is held */
  readonly bytes?: Uint8Array;
  /** whether somebody wrote to the file since it was opened; never, where the content is held */
  changed(): Promise<boolean>;
  close(): Promise<void>;
}

/**
 * Only of regular files: a pipe or a device has no end that could be known.
 * @throws what the file system throws, Error for what is no file
 */
export async function openImage(path: string): Promise<ImageFile> {
  // Without waiting, where the name is a pipe's that nobody writes to.
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  let held = false;
  try {
    const before = await handle.stat({ bigint: true });
    held = !before.isFile() || before.size <= HELD_BYTES;
    if (!before.isFile()) throw new Error("it is no regular file");
    const size = Number(before.size);
    if (!held) {
      const changed = async () => {
        const now = await handle.stat({ bigint: true });
        return now.size !== before.size || now.mtimeNs !== before.mtimeNs || now.ctimeNs !== before.ctimeNs;
      };
      return { path, ...handleReader(handle, size), changed, close: () => handle.close() };
    }
    const bytes = new Uint8Array(size);
    await handleReader(handle, size).readInto(0, bytes);
    return { path, bytes, ...bytesReader(bytes), changed: async () => false, close: async () => {} };
  } finally {
    if (held) await handle.close();
  }
}

function handleReader(handle: FileHandle, size: number) {
  const readInto = async (offset: number, into: Uint8Array): Promise<void> => {
    if (offset < 0 || offset + into.length > size) {
      throw new RangeError(`read of ${into.length} bytes at ${offset} is outside an image of ${size} bytes`);
    }
    for (let at = 0; at < into.length;) {
      const { bytesRead } = await handle.read(into, at, into.length - at, offset + at);
      if (bytesRead === 0) throw new CountersignError("image-invalid", "the image became shorter while it was read");
      at += bytesRead;
    }
  };
  return {
    size,
    readInto,
    async read(offset: number, length: number) {
      const into = new Uint8Array(length);
      await readInto(offset, into);
      return into;
    },
  };
}

/** Hex. */
export async function digestOf(image: ImageFile): Promise<string> {
  if (image.bytes !== undefined) return sha256Hex(image.bytes);
  const hash = createHash("sha256");
  const pieces = new PieceReader(image);
  for (let at = 0; at < image.size; at += PIECE) hash.update(await pieces.read(at, PIECE));
  return hash.digest("hex");
}

/**
 * Writes a patched copy under a name that is free; a failure leaves no file behind. Nothing is durable yet.
 * @throws what the file system throws
 */
export async function writePatched(original: ImageFile, patches: readonly Patch[], target: string): Promise<void> {
  if (original.bytes !== undefined) {
    await writeFile(target, applyPatches(original.bytes, patches), { flag: "wx" });
    return;
  }
  try {
    if (patches.every(({ insert, remove }) => insert.length === remove)) await copyAndPatch(original, patches, target);
    else await writePieces(original, patches, target);
  } catch (error) {
    await rm(target, { force: true });
    throw error;
  }
}

/** The kernel copies, or shares blocks where the file system can; only the patches pass through here. */
async function copyAndPatch(original: ImageFile, patches: readonly Patch[], target: string): Promise<void> {
  await copyFile(original.path, target, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE);
  const handle = await open(target, "r+");
  try {
    // The copy of a read-only template is one too.
    await handle.chmod(0o644);
    for (const { insert, offset } of patches) await writeAll(handle, insert, offset);
  } finally {
    await handle.close();
  }
}

async function writePieces(original: ImageFile, patches: readonly Patch[], target: string): Promise<void> {
  const handle = await open(target, "wx");
  const pieces = new PieceReader(original);
  try {
    let [from, to] = [0, 0];
    for (const patch of [...patches, { offset: original.size, remove: 0, insert: new Uint8Array(0) }]) {
      while (from < patch.offset) {
        const piece = await pieces.read(from, Math.min(PIECE, patch.offset - from));
        await writeAll(handle, piece, to);
        from += piece.length;
        to += piece.length;
      }
      await writeAll(handle, patch.insert, to);
      from += patch.remove;
      to += patch.insert.length;
    }
  } finally {
    await handle.close();
  }
}

async function writeAll(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let at = 0; at < bytes.length;) {
    at += (await handle.write(bytes, at, bytes.length - at, position + at)).bytesWritten;
  }
}
