/** An address or offset as messages show it. */
export function hex(value: number): string {
  return `0x${value.toString(16).toUpperCase()}`;
}

/** The bytes from `offset` on, its end not included. */
export function range(offset: number, length: number): string {
  return `${hex(offset)}..${hex(offset + length)}`;
}
