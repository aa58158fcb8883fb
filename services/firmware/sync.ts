import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { CountersignError } from "../../lib/domain/errors.ts";

const run = promisify(execFile);

/**
 * Makes everything written to the file system that holds `path` durable: one system call for a batch, where an fsync a
 * file would cost one flush each. Node has no syncfs, coreutils' `sync -f` is it; elsewhere plain `sync` does the same
 * for all file systems.
 */
export async function syncFilesystem(path: string): Promise<void> {
  try {
    await run("sync", process.platform === "linux" ? ["-f", "--", path] : [], { timeout: 120_000 });
  } catch (cause) {
    throw new CountersignError("component-unreachable", `the file system of ${path} could not be synced to disk`, {
      cause,
    });
  }
}
