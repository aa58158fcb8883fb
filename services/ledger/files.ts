import { mkdir, open, rename, stat } from "node:fs/promises";
import { dirname } from "node:path";

/** Writes a file of a static log unless it is there. @param touched gets its folder, which is to be synced then */
export async function writeOnce(path: string, bytes: () => Promise<Uint8Array>, touched?: Set<string>): Promise<void> {
  // A path names its content for good, so what is there needs no second look.
  if (
    await stat(path).then(
      (s) => s.isFile(),
      () => false,
    )
  )
    return;
  await writeFile(path, await bytes());
  touched?.add(dirname(path));
}

let written = 0;

/** Whole or not at all: by rename, once the bytes are on the disk. */
export async function writeFile(path: string, bytes: Uint8Array): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  // Of its own: another process may be writing the same.
  const temporary = `${path}.${process.pid}-${++written}.new`;
  const file = await open(temporary, "w", 0o644);
  try {
    await file.writeFile(bytes);
    // A name never comes to stand for bytes that a power cut took: what is there is never written again.
    await file.datasync();
  } finally {
    await file.close();
  }
  await rename(temporary, path);
}

/** A file is there after a power cut when its folder says so. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}
