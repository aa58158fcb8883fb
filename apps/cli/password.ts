import { closeSync, constants, fstatSync, openSync, readFileSync } from "node:fs";
import { createInterface } from "node:readline/promises";
import { Writable } from "node:stream";
import { CountersignError } from "../../lib/domain/errors.ts";

const MAX_FILE_BYTES = 2048;

/**
 * A password from a file that only its owner may read, or asked for twice on a terminal; never from an argument.
 * @throws CountersignError `usage` where neither is there, `input-invalid`
 */
export async function readPassword(what: string, file: string | undefined): Promise<string> {
  if (file !== undefined) return fromFile(file);
  if (!process.stdin.isTTY) {
    throw new CountersignError("usage", `name a file with the password for ${what}: --password-file FILE`);
  }
  const first = await ask(`Password for ${what}: `);
  if (first !== (await ask("Again: "))) throw new CountersignError("input-invalid", "the two passwords differ");
  return first;
}

function fromFile(path: string): string {
  let file: number;
  try {
    file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    throw new CountersignError("input-invalid", `can't open the password file ${path}`, { cause });
  }
  try {
    const { mode, size } = fstatSync(file);
    if ((mode & 0o077) !== 0) {
      throw new CountersignError("input-invalid", `others may read the password file ${path}: chmod 600 it`);
    }
    if (size > MAX_FILE_BYTES)
      throw new CountersignError("input-invalid", `${path} is no password file: it is too large`);
    return readFileSync(file, "utf8").replace(/\r?\n$/, "");
  } finally {
    closeSync(file);
  }
}

/** What is typed isn't shown. */
async function ask(question: string): Promise<string> {
  const silent = new Writable({ write: (_chunk, _encoding, done) => done() });
  const line = createInterface({ input: process.stdin, output: silent, terminal: true });
  // Only now: the echo is off, also for who answers at once.
  process.stderr.write(question);
  try {
    return await line.question("");
  } finally {
    line.close();
    process.stderr.write("\n");
  }
}
