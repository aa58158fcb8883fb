import { Duplex } from "node:stream";
import type { TLSSocket } from "node:tls";

export interface PacketLimits {
  /** Largest first packet (CONNECT), before anyone is known. */
  firstPacketBytes: number;
  /** Largest later packet. */
  packetBytes: number;
}

/**
 * A device's connection as the broker sees it: the same bytes, but a packet that announces more than the limit ends the
 * connection at its header. The broker's parser would otherwise gather up to 256 MiB for whoever finishes a handshake.
 */
export class PacketGuard extends Duplex {
  readonly socket: TLSSocket;
  readonly #limits: PacketLimits;
  #first = true;
  #state: "type" | "length" | "body" = "type";
  #length = 0;
  #shift = 0;

  constructor(socket: TLSSocket, limits: PacketLimits) {
    super({ allowHalfOpen: false, autoDestroy: true });
    this.socket = socket;
    this.#limits = limits;
    socket.on("data", (chunk: Buffer) => {
      if (!this.#withinLimits(chunk)) {
        this.destroy(new Error("packet larger than this hub takes"));
        return;
      }
      if (!this.push(chunk)) socket.pause();
    });
    socket.on("end", () => this.push(null));
    socket.on("error", (error: Error) => this.destroy(error));
    socket.on("close", () => this.destroy());
  }

  override _read(): void {
    this.socket.resume();
  }

  override _write(chunk: Buffer, encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.socket.write(chunk, encoding, done);
  }

  /** The broker writes a packet in parts: what waits goes out as one, and so as one TLS record. */
  override _writev(parts: { chunk: Buffer }[], done: (error?: Error | null) => void): void {
    this.socket.write(Buffer.concat(parts.map(({ chunk }) => chunk)), done);
  }

  override _final(done: () => void): void {
    this.socket.end(done);
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    // Let a refusal that was just written leave first, but don't wait for a peer that doesn't read.
    this.socket.destroySoon();
    setTimeout(() => this.socket.destroy(), 500).unref();
    done(error);
  }

  /** Follows the fixed headers (MQTT 3.1.1 section 2.2) through the stream, whatever its chunking. */
  #withinLimits(chunk: Buffer): boolean {
    let at = 0;
    while (at < chunk.length) {
      if (this.#state === "type") {
        this.#state = "length";
        this.#length = 0;
        this.#shift = 0;
        at++;
      } else if (this.#state === "length") {
        const byte = chunk[at++] ?? 0;
        this.#length += (byte & 0x7f) * 2 ** this.#shift;
        this.#shift += 7;
        if (byte & 0x80) {
          if (this.#shift >= 28) return false;
          continue;
        }
        if (this.#length > (this.#first ? this.#limits.firstPacketBytes : this.#limits.packetBytes)) return false;
        this.#first = false;
        this.#state = this.#length === 0 ? "type" : "body";
      } else {
        const step = Math.min(this.#length, chunk.length - at);
        at += step;
        this.#length -= step;
        if (this.#length === 0) this.#state = "type";
      }
    }
    return true;
  }
}
