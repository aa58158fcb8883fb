import { randomBytes } from "node:crypto";
import { linkSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";

/**
 * The secret in `file`, made from 192 random bits when the file is missing. The file is 0600, its folder 0700. Two
 * callers at once agree: the first link wins.
 */
export function secretFile(file: string): string {
  const before = read(file);
  if (before !== undefined) return before;
  mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
  const next = `${file}.${process.pid}.${randomBytes(4).toString("hex")}`;
  writeFileSync(next, `${randomBytes(24).toString("base64url")}\n`, { mode: 0o600, flag: "wx", flush: true });
  try {
    linkSync(next, file);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  } finally {
    rmSync(next, { force: true });
  }
  return read(file) as string;
}

function read(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8").trimEnd();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
