/** The few MQTT 3.1.1 packets that a device of IoT Hub sends. */

/** As Azure's SDKs send it: session kept, keep-alive 180 s, a user name and no password. */
export function connectPacket(id: string, username = `localhost/${id}/?api-version=2021-04-12`): Buffer {
  return packet(0x10, text("MQTT"), Buffer.from([4, 0x80, 0, 180]), text(id), text(username));
}

/** QoS 1. @param messageId 1 to 65535 */
export function publishPacket(topic: string, body: Buffer | string, messageId = 1): Buffer {
  return packet(0x32, text(topic), short(messageId), Buffer.from(body));
}

export function subscribePacket(filter: string, messageId = 1): Buffer {
  return packet(0x82, short(messageId), text(filter), Buffer.from([1]));
}

export const DISCONNECT: Buffer = Buffer.from([0xe0, 0]);

function short(value: number): Buffer {
  return Buffer.from([value >> 8, value & 0xff]);
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value);
  return Buffer.concat([short(bytes.length), bytes]);
}

function packet(first: number, ...parts: Buffer[]): Buffer {
  const body = Buffer.concat(parts);
  const length: number[] = [];
  let rest = body.length;
  do {
    length.push((rest & 0x7f) | (rest > 0x7f ? 0x80 : 0));
    rest >>= 7;
  } while (rest > 0);
  return Buffer.concat([Buffer.from([first, ...length]), body]);
}
