import { CountersignError } from "../../lib/domain/errors.ts";
import { pemEncode } from "../../lib/pki/pem.ts";

type Field = readonly [name: string, value: string];

/**
 * A posted form as an object.
 * @throws CountersignError `input-invalid` for a field that is there twice: it would be one for who checks it and
 *   another for who uses it
 */
export function fieldsOnce(fields: readonly Field[]): Record<string, string> {
  if (new Set(fields.map(([name]) => name)).size < fields.length) {
    throw new CountersignError("input-invalid", "a field of the form is there twice");
  }
  return Object.fromEntries(fields);
}

/**
 * A form with files in it (RFC 7578); a file of DER is given as a certificate's PEM, any other as its text.
 * @param body bounded by the server
 * @throws CountersignError `input-invalid`
 */
export async function multipartFields(body: Buffer, contentType: string): Promise<Field[]> {
  let fields: [string, string | File][];
  try {
    const headers = { "content-type": contentType };
    fields = [...(await new Response(new Uint8Array(body), { headers }).formData())];
  } catch (cause) {
    throw new CountersignError("input-invalid", "the form can't be read", { cause });
  }
  return Promise.all(fields.map(async ([name, value]) => [name, await textOf(value)] as const));
}

const DER_SEQUENCE = 0x30;

async function textOf(value: string | File): Promise<string> {
  if (typeof value === "string") return value;
  const bytes = new Uint8Array(await value.arrayBuffer());
  return bytes[0] === DER_SEQUENCE ? pemEncode("CERTIFICATE", bytes) : Buffer.from(bytes).toString("utf8");
}
