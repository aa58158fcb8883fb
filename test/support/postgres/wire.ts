/** As much of Postgres's frontend/backend protocol 3 as it takes to tell one statement from the next. */

const TYPE = { query: 0x51, parse: 0x50, bind: 0x42, sync: 0x53, readyForQuery: 0x5a } as const;
const IN_TRANSACTION = 0x54;

/** Bytes for the server; with `statement` they end one, and are what it consists of. */
export interface FromClient {
  readonly bytes: Buffer;
  readonly statement?: string;
}

/** Reads both directions of one connection. */
export class StatementReader {
  /** the server's last word: idle (I), in a transaction (T), in one that failed (E) */
  status = 0x49;
  #started = false;
  #client: Buffer = Buffer.alloc(0);
  #server: Buffer = Buffer.alloc(0);
  #gathered: Buffer[] = [];
  #text = "";
  readonly #prepared = new Map<string, string>();

  *fromClient(data: Buffer): Generator<FromClient> {
    this.#client = Buffer.concat([this.#client, data]);
    for (;;) {
      // The first message of a connection has no type.
      const header = this.#started ? 1 : 0;
      if (this.#client.length < header + 4) return;
      const length = header + this.#client.readUInt32BE(header);
      if (this.#client.length < length) return;
      const message = this.#client.subarray(0, length);
      this.#client = this.#client.subarray(length);
      if (!this.#started) {
        this.#started = true;
        yield { bytes: message };
      } else yield* this.#message(message);
    }
  }

  *#message(message: Buffer): Generator<FromClient> {
    const type = message[0];
    this.#gathered.push(message);
    if (type === TYPE.parse) {
      const name = cString(message, 5);
      this.#text = cString(message, 5 + Buffer.byteLength(name) + 1);
      this.#prepared.set(name, this.#text);
    } else if (type === TYPE.bind) {
      const portal = cString(message, 5);
      const name = cString(message, 5 + Buffer.byteLength(portal) + 1);
      this.#text = this.#prepared.get(name) ?? "";
    } else if (type === TYPE.query) this.#text = cString(message, 5);
    const gathers = type === TYPE.parse || type === TYPE.bind || type === 0x44 || type === 0x45; // Describe, Execute
    if (gathers) return;
    const bytes = Buffer.concat(this.#gathered.splice(0));
    if (type === TYPE.query || type === TYPE.sync) yield { bytes, statement: this.#text };
    else yield { bytes };
  }

  /** True when the server has answered a statement to its end. */
  fromServer(data: Buffer): boolean {
    this.#server = Buffer.concat([this.#server, data]);
    let ready = false;
    while (this.#server.length >= 5) {
      const length = 1 + this.#server.readUInt32BE(1);
      if (this.#server.length < length) break;
      if (this.#server[0] === TYPE.readyForQuery) {
        ready = true;
        this.status = this.#server[5]!;
      }
      this.#server = this.#server.subarray(length);
    }
    return ready;
  }
}

/** An ErrorResponse and a ReadyForQuery, as a server answers a statement that it couldn't carry out. */
export function errorAnswer(code: string, text: string, status: number): Buffer {
  const fields = Buffer.from(`SERROR\0VERROR\0C${code}\0M${text}\0\0`);
  const error = Buffer.alloc(5);
  error[0] = 0x45;
  error.writeUInt32BE(4 + fields.length, 1);
  const ready = Buffer.from([TYPE.readyForQuery, 0, 0, 0, 5, status === IN_TRANSACTION ? 0x45 : status]);
  return Buffer.concat([error, fields, ready]);
}

function cString(message: Buffer, at: number): string {
  return message.toString("utf8", at, message.indexOf(0, at));
}
