import { randomBytes } from "node:crypto";
import { closeSync, constants, fstatSync, openSync, readFileSync, statSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { fromUtf8 } from "../lib/domain/bytes.ts";
import { CountersignError } from "../lib/domain/errors.ts";

/**
 * Where a PIN stands; configuration holds this and never the PIN. A PIN is read when the token asks for it, kept no
 * longer than that call, and no error or log line of this room has it in it.
 */
export type PinSource = { file: string } | { env: string };

const MAX_PIN_BYTES = 255;

function refuse(source: PinSource, why: string, cause?: unknown): never {
  const where = "file" in source ? `PIN file ${source.file}` : `PIN variable ${source.env}`;
  throw new CountersignError("hsm-unavailable", `${where} ${why}`, cause === undefined ? {} : { cause });
}

/**
 * Reads it without libuv's threads: a hung HSM may hold them all.
 * @throws CountersignError `hsm-unavailable` when the source is missing, unsafe or holds no PIN
 */
export function readPin(source: PinSource): string {
  const raw = "file" in source ? readPinFile(source, source.file) : process.env[source.env];
  if (raw === undefined) refuse(source, "isn't set: set it for this process only");
  const pin = raw.replace(/\r?\n$/, "");
  if (pin.length === 0) refuse(source, "is empty");
  // eslint-disable-next-line no-control-regex -- a second line or a NUL means this is not a PIN file
  if (/[\u0000-\u001f\u007f]/.test(pin)) refuse(source, "holds more than one line of text");
  if (Buffer.byteLength(pin) > MAX_PIN_BYTES) refuse(source, `holds more than ${MAX_PIN_BYTES} bytes`);
  return pin;
}

/** Changes when the PIN file is written, even with the same PIN; empty for a variable. */
export function pinVersion(source: PinSource): string {
  return "file" in source ? String(statSync(source.file, { throwIfNoEntry: false })?.mtimeMs ?? "") : "";
}

function readPinFile(source: PinSource, path: string): string {
  let file: number;
  try {
    file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    refuse(source, "can't be opened: check the path and its owner", cause);
  }
  try {
    // The mode is read from the open file, so that nothing can be swapped in between.
    const status = fstatSync(file);
    if (!status.isFile()) refuse(source, "isn't a regular file");
    if ((status.mode & 0o077) !== 0) {
      const mode = (status.mode & 0o777).toString(8).padStart(3, "0");
      refuse(source, `has mode ${mode}: group and others may not read it, run chmod 600 on it`);
    }
    if (status.size > MAX_PIN_BYTES + 2) refuse(source, `holds more than ${MAX_PIN_BYTES} bytes`);
    const bytes = readFileSync(file);
    try {
      return fromUtf8(bytes);
    } catch {
      refuse(source, "isn't UTF-8 text");
    } finally {
      bytes.fill(0);
    }
  } finally {
    closeSync(file);
  }
}

/**
 * Writes a new random PIN (128 bits) to a file of mode 0600.
 * @throws CountersignError `already-exists`: the PIN of a token that exists is never overwritten
 */
export async function createPinFile(path: string): Promise<PinSource> {
  let file: FileHandle;
  try {
    file = await open(path, "wx", 0o600);
  } catch (cause) {
    const exists = (cause as NodeJS.ErrnoException).code === "EEXIST";
    throw new CountersignError(
      exists ? "already-exists" : "hsm-unavailable",
      exists ? `PIN file ${path} is there already: a token may depend on it` : `PIN file ${path} can't be made`,
      { cause },
    );
  }
  try {
    // Without a line end: OpenSSL's engine takes the file's every byte for the PIN.
    await file.writeFile(randomPin());
    await file.sync();
  } finally {
    await file.close();
  }
  return { file: path };
}

export function randomPin(): string {
  return randomBytes(16).toString("base64url");
}
