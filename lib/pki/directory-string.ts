import { fromUtf8 } from "../domain/bytes.ts";
import { derError, TAG, type DerElement } from "./der.ts";

/** The text of a string element, or undefined for types that hold no text. A NUL is refused: C programs stop there. */
export function stringText({ tag, content, offset }: DerElement): string | undefined {
  const text = decode(tag, content, offset);
  if (text?.includes("\0")) throw derError("string with a NUL", offset);
  return text;
}

function decode(tag: number, content: Uint8Array, offset: number): string | undefined {
  switch (tag) {
    case TAG.utf8String:
      try {
        return fromUtf8(content);
      } catch {
        throw derError("UTF8String is not UTF-8", offset);
      }
    case TAG.printableString:
    case TAG.ia5String:
    case TAG.visibleString:
    case TAG.numericString:
      if (content.some((octet) => octet >= 0x80)) throw derError("string with octets outside ASCII", offset);
      return fixedWidth(content, 1, offset);
    case TAG.teletexString: // read as Latin-1, as everyone does
      return fixedWidth(content, 1, offset);
    case TAG.bmpString:
      return fixedWidth(content, 2, offset);
    case TAG.universalString:
      return fixedWidth(content, 4, offset);
    default:
      return undefined;
  }
}

function fixedWidth(content: Uint8Array, width: number, offset: number): string {
  if (content.length % width !== 0) throw derError("string cut inside a character", offset);
  let text = "";
  for (let i = 0; i < content.length; i += width) {
    let point = 0;
    for (let j = i; j < i + width; j++) point = point * 256 + content[j]!;
    if (point > 0x10ffff || (point >= 0xd800 && point < 0xe000))
      throw derError("string with an invalid character", offset);
    text += String.fromCodePoint(point);
  }
  return text;
}
