import { closeSync, constants, fstatSync, openSync, readFileSync } from "node:fs";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { CountersignError } from "../../../lib/domain/errors.ts";
import type { FetchResource } from "../../../lib/ledger/reader.ts";
import { parseCertificate, parseCertificatesPem, type Certificate } from "../../../lib/pki/certificate.ts";
import { policy as policySchema, type Policy } from "../../../lib/records/policy.ts";

const MAX_FILE_BYTES = 64 << 20;
/** What a static log may be asked for: names only, no way out of the folder. */
const RESOURCE = /^(?:checkpoint|tile\/[0-9a-z/.]{1,80}|blobs\/[0-9a-f]{64}|cosigned\/[0-9]{1,16})$/;

/** Reads a static log from a folder. A file that isn't there is undefined; one that can't be read is an error. */
export function folderFetch(folder: string): FetchResource {
  return async (path) => {
    if (!RESOURCE.test(path) || path.includes("..")) return undefined;
    return readBounded(join(folder, path));
  };
}

/**
 * A whole file of at most 64 MiB, or undefined when there is none. Read at once, not on another thread: an audit reads
 * thousands of small files, and has nothing to do meanwhile.
 * @throws CountersignError `input-invalid`, `input-too-large`
 */
export async function readBounded(path: string): Promise<Uint8Array | undefined> {
  let file;
  try {
    // A pipe that somebody put there must not keep us waiting for its other end.
    file = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === "ENOENT" || code === "ENOTDIR") return undefined;
    throw new CountersignError("input-invalid", `can't read ${path}: ${(cause as Error).message}`, { cause });
  }
  try {
    const stat = fstatSync(file);
    if (!stat.isFile()) return undefined;
    if (stat.size > MAX_FILE_BYTES) throw new CountersignError("input-too-large", `${path} has ${stat.size} bytes`);
    return readFileSync(file);
  } finally {
    closeSync(file);
  }
}

/** @throws CountersignError `usage` */
export async function readNeeded(path: string, what: string): Promise<Uint8Array> {
  const bytes = await readBounded(path);
  if (!bytes) throw new CountersignError("usage", `${what} ${path} doesn't exist, or is no file`);
  return bytes;
}

/** The pinned root: the one certificate of a PEM (or DER) file. */
export async function readRoot(path: string): Promise<Certificate> {
  const bytes = await readNeeded(path, "the root certificate");
  let certificates: Certificate[];
  try {
    certificates =
      bytes[0] === 0x30 ? [parseCertificate(bytes)] : parseCertificatesPem(Buffer.from(bytes).toString("utf8"));
  } catch (cause) {
    const message = `${path} is no root certificate in PEM or DER: ${(cause as Error).message}`;
    throw new CountersignError("certificate-invalid", message, { cause });
  }
  if (certificates.length !== 1)
    throw new CountersignError("usage", `${path} holds ${certificates.length} certificates: name one root`);
  return certificates[0]!;
}

/** @throws CountersignError `policy-invalid` */
export async function readPolicy(path: string): Promise<Policy> {
  const bytes = await readNeeded(path, "the policy");
  try {
    return policySchema.parse(JSON.parse(Buffer.from(bytes).toString("utf8")));
  } catch (cause) {
    throw new CountersignError(
      "policy-invalid",
      `${path} is not a policy: ${(cause as Error).message.split("\n")[0]}`,
      { cause },
    );
  }
}

export async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch {
    return undefined;
  }
}

/** @throws CountersignError `usage` when it is no folder that can be read */
export async function assertFolder(path: string): Promise<void> {
  try {
    await readdir(path);
  } catch (cause) {
    throw new CountersignError("usage", `${path} is no folder that can be read`, { cause });
  }
}
