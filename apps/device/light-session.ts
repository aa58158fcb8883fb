import { isIP } from "node:net";
import { connect, type SecureContext, type TLSSocket } from "node:tls";
import { connectPacket, DISCONNECT, publishPacket } from "./mqtt-packets.ts";

export interface LightTarget {
  /** HOST:PORT */
  hub: string;
  /** key, chain and the CAs that the hub's certificate is checked against */
  context: SecureContext;
  deviceId: string;
  /** for each step, milliseconds */
  timeoutMs: number;
  signal: AbortSignal;
}

/** Why a session isn't or is no more; `reason` is the same for all that failed alike. */
export class SessionEnded extends Error {
  readonly reason: string;

  constructor(reason: string, options?: ErrorOptions) {
    super(reason, options);
    this.reason = reason;
  }
}

const CONNACK = 2;
const PUBACK = 4;

/** A device's connection without a client library around it, so that one process has thousands. */
export class LightSession {
  readonly #target: LightTarget;
  readonly #socket: TLSSocket;
  #received: Buffer = Buffer.alloc(0);
  #ended: SessionEnded | undefined;
  /** What is waited for: a packet's type, and for a PUBACK its message ID. */
  readonly #awaited = new Map<string, { resolve: (code: number) => void; reject: (error: SessionEnded) => void }>();
  #messageId = 0;

  private constructor(target: LightTarget, socket: TLSSocket) {
    this.#target = target;
    this.#socket = socket;
    socket.on("data", (part: Buffer) => this.#take(part));
    socket.on("error", (error: Error) => this.#end(new SessionEnded(reasonOf(error), { cause: error })));
    socket.on("close", () => this.#end(new SessionEnded("the hub ended the connection")));
    target.signal.addEventListener("abort", this.#stop, { once: true });
  }

  /** TCP, TLS and CONNECT. @throws SessionEnded */
  static async open(target: LightTarget): Promise<LightSession> {
    const [, host = "", port] = /^(.*?)(?::([0-9]+))?$/.exec(target.hub) ?? [];
    target.signal.throwIfAborted();
    const name = isIP(host) === 0 ? { servername: host } : {};
    const socket = connect({ host, port: Number(port ?? 8883), ...name, secureContext: target.context });
    const session = new LightSession(target, socket);
    socket.once("secureConnect", () =>
      socket.write(connectPacket(target.deviceId, `${host}/${target.deviceId}/?api-version=2021-04-12`)),
    );
    const code = await session.#answer(`${CONNACK}`);
    if (code !== 0) {
      const ended = new SessionEnded(code === 5 ? "not authorized" : `CONNACK ${code}`);
      session.#end(ended);
      throw ended;
    }
    return session;
  }

  /** Resolves when the hub has acknowledged it, and so stored it. @throws SessionEnded */
  async publish(body: string): Promise<void> {
    this.#messageId = (this.#messageId % 65_535) + 1;
    const id = this.#messageId;
    const properties = "%24.ct=application%2Fjson&%24.ce=utf-8";
    const answer = this.#answer(`${PUBACK} ${id}`);
    this.#socket.write(publishPacket(`devices/${this.#target.deviceId}/messages/events/${properties}`, body, id));
    await answer;
  }

  close(): void {
    if (this.#ended === undefined) this.#socket.end(DISCONNECT);
    this.#end(new SessionEnded("closed"));
  }

  readonly #stop = (): void => this.close();

  #answer(what: string): Promise<number> {
    return new Promise((resolve, reject) => {
      if (this.#ended !== undefined) return reject(this.#ended);
      const timer = setTimeout(() => this.#end(new SessionEnded("no answer in time")), this.#target.timeoutMs);
      this.#awaited.set(what, {
        resolve: (code) => (clearTimeout(timer), resolve(code)),
        reject: (error) => (clearTimeout(timer), reject(error)),
      });
    });
  }

  #take(part: Buffer): void {
    this.#received = this.#received.length === 0 ? part : Buffer.concat([this.#received, part]);
    // The hub says to such a device nothing else than these two, both of four octets.
    while (this.#received.length >= 4) {
      const [first = 0, length, high = 0, low = 0] = this.#received;
      const type = first >> 4;
      if (length !== 2 || (type !== CONNACK && type !== PUBACK)) {
        return this.#end(new SessionEnded("an answer that isn't MQTT's"));
      }
      this.#received = this.#received.subarray(4);
      const what = type === CONNACK ? `${CONNACK}` : `${PUBACK} ${(high << 8) | low}`;
      this.#awaited.get(what)?.resolve(type === CONNACK ? low : 0);
      this.#awaited.delete(what);
    }
  }

  #end(why: SessionEnded): void {
    if (this.#ended !== undefined) return;
    this.#ended = why;
    this.#target.signal.removeEventListener("abort", this.#stop);
    for (const { reject } of this.#awaited.values()) reject(why);
    this.#awaited.clear();
    if (why.reason === "closed") this.#socket.destroySoon();
    else this.#socket.destroy();
  }
}

function reasonOf(error: Error & { code?: string }): string {
  if (error.code === "ECONNREFUSED") return "nobody listens there";
  if (error.code === "ECONNRESET" || error.code === "EPIPE") return "the hub ended the connection";
  return error.code ?? error.message.slice(0, 80);
}
