import { CountersignError } from "../../lib/domain/errors.ts";

/**
 * The JSON values of an NDJSON body, one a line.
 * @throws CountersignError `input-too-large` beyond `maxLines`, `input-invalid` naming the line
 */
export function parseNdjson(body: Uint8Array, maxLines: number): unknown[] {
  const text = Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString("utf8");
  const lines = text.split("\n", maxLines + 2);
  if (lines.at(-1) === "") lines.pop();
  if (lines.length > maxLines) {
    throw new CountersignError("input-too-large", `the body has more than the ${maxLines} lines that are allowed`);
  }
  return lines.map((line, index) => {
    try {
      return JSON.parse(line) as unknown;
    } catch (cause) {
      throw new CountersignError("input-invalid", `line ${index + 1} of the body is not JSON`, { cause });
    }
  });
}
