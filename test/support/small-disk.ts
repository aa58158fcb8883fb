import { execFileSync } from "node:child_process";
import { closeSync, mkdirSync, openSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { tempDir } from "./index.ts";

/** A file system of a few megabytes in memory, which can be filled to the last block and given room again. Wants root. */
export class SmallDisk {
  readonly path: string;
  readonly #ballast: string;

  constructor(megabytes: number) {
    this.path = tempDir("disk");
    mkdirSync(this.path, { recursive: true });
    execFileSync("mount", ["-t", "tmpfs", "-o", `size=${megabytes}m,mode=0755`, "tmpfs", this.path], { stdio: "pipe" });
    this.#ballast = join(this.path, "ballast");
  }

  /** Takes what is left, to the last page. */
  fill(): void {
    const file = openSync(this.#ballast, "a");
    try {
      for (let chunk = Buffer.alloc(1 << 20); chunk.length >= 4096; chunk = chunk.subarray(chunk.length / 2)) {
        try {
          for (;;) writeSync(file, chunk);
        } catch (error) {
          if ((error as NodeJS.ErrnoException).code !== "ENOSPC") throw error;
        }
      }
    } finally {
      closeSync(file);
    }
  }

  empty(): void {
    rmSync(this.#ballast, { force: true });
  }

  remove(): void {
    execFileSync("umount", ["-l", this.path], { stdio: "pipe" });
    rmSync(this.path, { recursive: true, force: true });
  }
}
