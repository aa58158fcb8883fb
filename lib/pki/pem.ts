import { fromBase64, toBase64 } from "../domain/bytes.ts";
import { CountersignError } from "../domain/errors.ts";

const BEGIN = /^-----BEGIN ([A-Z0-9][A-Z0-9 ]{0,62})-----$/;
const MAX_TEXT = 4 * 1024 * 1024;
const MAX_BLOCKS = 256;

export interface PemBlock {
  readonly label: string;
  readonly der: Uint8Array;
}

/**
 * The blocks of a PEM text (RFC 7468), in order. Text outside blocks is ignored, so a final NUL or openssl's `-text`
 * output does no harm; inside a block only base64 lines are allowed, in their one canonical encoding.
 * @throws CountersignError `pem-invalid`, `input-too-large` above 4 MiB or 256 blocks
 */
export function pemBlocks(text: string): PemBlock[] {
  if (text.length > MAX_TEXT) throw new CountersignError("input-too-large", `PEM text above ${MAX_TEXT} characters`);
  const blocks: PemBlock[] = [];
  let label: string | undefined;
  let body: string[] = [];
  let lineNumber = 0;
  for (const rawLine of text.split("\n")) {
    lineNumber++;
    const line = rawLine.trim();
    if (label === undefined) {
      const begin = BEGIN.exec(line);
      if (begin !== null) [label, body] = [begin[1]!, []];
      else if (line.startsWith("-----")) throw invalid(`line ${lineNumber} is a PEM boundary without its BEGIN`);
      continue;
    }
    if (line === `-----END ${label}-----`) {
      if (blocks.length === MAX_BLOCKS)
        throw new CountersignError("input-too-large", `more than ${MAX_BLOCKS} PEM blocks`);
      blocks.push({ label, der: decodeBody(body, label, lineNumber) });
      label = undefined;
    } else if (line.startsWith("-----")) {
      throw invalid(`line ${lineNumber} is not the END of ${label}`);
    } else {
      body.push(line);
    }
  }
  if (label !== undefined) throw invalid(`${label} has no END line: the text is cut off`);
  return blocks;
}

/**
 * The DER of each block; at least one. With `labels`, every block must carry one of them: a private key that strayed
 * into a certificate file is refused, never passed over.
 * @throws CountersignError `pem-invalid`, `input-too-large`
 */
export function pemDecode(text: string, ...labels: readonly string[]): Uint8Array[] {
  const blocks = pemBlocks(text);
  for (const { label } of blocks) {
    if (labels.length === 0 || labels.includes(label)) continue;
    if (label.endsWith("PRIVATE KEY"))
      throw invalid(`it holds a ${label}; remove the key, only ${labels[0]} belongs here`);
    throw invalid(`it holds a ${label} where only ${labels.join(" or ")} belongs`);
  }
  if (blocks.length === 0) throw invalid(`no ${labels.join(" or ") || "PEM"} block found`);
  return blocks.map((block) => block.der);
}

/** One block, base64 in lines of 64 columns, LF line ends. */
export function pemEncode(label: string, der: Uint8Array): string {
  const base64 = toBase64(der);
  let body = "";
  for (let i = 0; i < base64.length; i += 64) body += `${base64.slice(i, i + 64)}\n`;
  return `-----BEGIN ${label}-----\n${body}-----END ${label}-----\n`;
}

function decodeBody(lines: readonly string[], label: string, lineNumber: number): Uint8Array {
  try {
    const der = fromBase64(lines.join(""));
    if (der.length > 0) return der;
  } catch (cause) {
    throw new CountersignError("pem-invalid", `PEM: ${label} ending on line ${lineNumber} is not base64`, { cause });
  }
  throw invalid(`${label} ending on line ${lineNumber} is empty`);
}

function invalid(message: string): CountersignError {
  return new CountersignError("pem-invalid", `PEM: ${message}`);
}
