import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";
import { z } from "zod";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { parseCsr } from "../../../lib/pki/csr.ts";

const line = z.object({ csr: z.string().max(32_768) });
const MAX_CSRS = 200_000;

/** Reads NDJSON lines {"csr": PEM}. @throws CountersignError `input-invalid` naming the line, `usage` when there is no such file */
export async function readCsrFile(path: string): Promise<string[]> {
  const csrs: string[] = [];
  let number = 0;
  try {
    for await (const text of createInterface({ input: createReadStream(path), crlfDelay: Infinity })) {
      number++;
      if (text.trim() === "") continue;
      if (csrs.length === MAX_CSRS)
        throw new CountersignError("input-too-large", `${path} has more than ${MAX_CSRS} CSRs`);
      csrs.push(line.parse(JSON.parse(text)).csr);
    }
  } catch (cause) {
    if (cause instanceof CountersignError) throw cause;
    if ((cause as NodeJS.ErrnoException).code === "ENOENT")
      throw new CountersignError("usage", `${path} doesn't exist`, { cause });
    if ((cause as NodeJS.ErrnoException).syscall !== undefined)
      throw new CountersignError("input-invalid", `${path} can't be read: ${(cause as Error).message}`, { cause });
    throw new CountersignError(
      "input-invalid",
      `${path}, line ${number}: expected {"csr": "-----BEGIN CERTIFICATE REQUEST-----..."}`,
      { cause },
    );
  }
  return csrs;
}

/**
 * The namespace that a grant for these devices needs: the letters before the first digit or separator of each device
 * ID, or first characters where there are too many. A CSR that can't be read asks for nothing; it will be refused.
 */
export function namespaceOf(csrs: readonly string[]): string[] {
  const names = csrs.flatMap((pem) => {
    try {
      return parseCsr(pem).subjectCn ?? [];
    } catch {
      return [];
    }
  });
  const prefixes = (shape: RegExp) => [...new Set(names.flatMap((name) => shape.exec(name)?.[0] ?? []))];
  const words = prefixes(/^(?:[A-Za-z]+|[0-9])/);
  const found = words.length <= 32 ? words : prefixes(/^[A-Za-z0-9]/);
  return found.length > 0 ? found.slice(0, 64) : ["dev-"];
}
