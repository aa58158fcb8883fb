import { CountersignError } from "../domain/errors.ts";
import { derError, TAG, type DerReader } from "./der.ts";

/** One extension as encoded (RFC 5280 section 4.2). */
export interface Extension {
  readonly oid: string;
  readonly critical: boolean;
  /** Content of extnValue: the DER of the extension's own type */
  readonly value: Uint8Array;
  /** Where `value` starts in the outermost input */
  readonly offset: number;
}

const MAX_EXTENSIONS = 64;

/**
 * Extensions ::= SEQUENCE SIZE (1..MAX) OF Extension; `reader` stands before it.
 * @throws CountersignError `der-invalid`; a second extension of one OID sets `details.rule` to `duplicate-extension`
 */
export function readExtensions(reader: DerReader): Extension[] {
  const list = reader.enter();
  const extensions: Extension[] = [];
  const seen = new Set<string>();
  if (list.atEnd) throw list.fail("empty list of extensions");
  while (!list.atEnd) {
    if (extensions.length === MAX_EXTENSIONS) throw list.fail(`more than ${MAX_EXTENSIONS} extensions`);
    const offset = list.offset;
    const extension = list.enter();
    const oid = extension.oid();
    const critical = extension.peek() === TAG.boolean ? extension.boolean() : undefined;
    if (critical === false) throw derError("DEFAULT FALSE encoded", offset);
    const value = extension.read(TAG.octetString);
    extension.end();
    if (seen.has(oid)) {
      throw new CountersignError("der-invalid", `extension ${oid} appears twice (DER offset ${offset})`, {
        details: { offset, rule: "duplicate-extension" },
      });
    }
    seen.add(oid);
    extensions.push({ oid, critical: critical === true, value: value.content, offset: value.contentOffset });
  }
  return extensions;
}
