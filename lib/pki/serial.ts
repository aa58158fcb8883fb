import { toHex } from "../domain/bytes.ts";

/**
 * A serial number of 16 octets: positive, never shortened, 126 random bits (RFC 5280 section 4.1.2.2 asks for at most
 * 20 octets). A fixed length keeps the size of a TBS independent of chance.
 * @param randomBytes a cryptographic source
 */
export function newSerial(randomBytes: (length: number) => Uint8Array): Uint8Array {
  const serial = Uint8Array.from(randomBytes(16));
  if (serial.length !== 16) throw new RangeError("the random source returned the wrong number of bytes");
  serial[0] = (serial[0]! & 0x3f) | 0x40;
  return serial;
}

/** The form serial numbers have in records, and in parsed certificates: lower-case hex of the magnitude. */
export function serialHex(serial: Uint8Array): string {
  let start = 0;
  while (start < serial.length - 1 && serial[start] === 0) start++;
  return toHex(serial.subarray(start));
}
