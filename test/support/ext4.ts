import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { tempDir, tool } from "./index.ts";

/** Factory partitions from e2fsprogs' own programs, and what those make of them afterwards. */

export interface Partition {
  /** by their paths */
  readonly files: Readonly<Record<string, Uint8Array>>;
  readonly megabytes?: number;
  /** for mke2fs */
  readonly options?: readonly string[];
}

export function makePartition({ files, megabytes = 4, options = ["-t", "ext4"] }: Partition): Uint8Array {
  const folder = tempDir("ext4");
  for (const [path, bytes] of Object.entries(files)) {
    mkdirSync(join(folder, "root", dirname(path)), { recursive: true });
    writeFileSync(join(folder, "root", path), bytes);
  }
  mkdirSync(join(folder, "root", "factory"), { recursive: true });
  symlinkSync("../etc/version", join(folder, "root", "factory", "link"));
  const image = join(folder, "partition.img");
  execFileSync(tool("mke2fs"), ["-q", ...options, "-d", join(folder, "root"), image, `${megabytes}M`], {
    stdio: "pipe",
  });
  return new Uint8Array(readFileSync(image));
}

function inFile(image: Uint8Array): string {
  const file = join(tempDir("ext4"), "partition.img");
  writeFileSync(file, image);
  return file;
}

/** What `e2fsck -f -n` finds wrong; empty when nothing. */
export function faults(image: Uint8Array): string {
  const run = spawnSync(tool("e2fsck"), ["-f", "-n", inFile(image)], { encoding: "utf8" });
  return run.status === 0 ? "" : `${run.stdout}${run.stderr}`;
}

/** Every file, folder and link of a partition with mode, owner and content, as debugfs reads them. */
export function contents(image: Uint8Array): Record<string, string> {
  const partition = inFile(image);
  const found: Record<string, string> = {};
  const walk = (folder: string): void => {
    for (const line of debugfs(partition, `ls -p "${folder}"`).toString("latin1").split("\n")) {
      const [, , mode, uid, gid, name, size] = line.split("/");
      if (mode === undefined || name === undefined || name === "." || name === ".." || name === "") continue;
      const path = `${folder === "/" ? "" : folder}/${name}`;
      const folderToo = mode.startsWith("04");
      const content = mode.startsWith("10") ? debugfs(partition, `cat "${path}"`).toString("hex") : "";
      found[path] = `${mode} ${uid}:${gid} ${folderToo ? "" : size} ${content}`;
      if (folderToo) walk(path);
    }
  };
  walk("/");
  return found;
}

/** Writes to a partition with debugfs, as `debugfs -w` does. */
export function changed(image: Uint8Array, ...requests: string[]): Uint8Array {
  const partition = inFile(image);
  for (const request of requests) execFileSync(tool("debugfs"), ["-w", "-R", request, partition], { stdio: "pipe" });
  return new Uint8Array(readFileSync(partition));
}

function debugfs(partition: string, request: string): Buffer {
  return execFileSync(tool("debugfs"), ["-R", request, partition], { stdio: "pipe", maxBuffer: 1 << 26 });
}
