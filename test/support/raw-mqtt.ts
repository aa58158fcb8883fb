import { once } from "node:events";
import { connect, type ConnectionOptions, type TLSSocket } from "node:tls";
import type { TestHub } from "./hub-process.ts";
import type { TestCertificate } from "./test-pki.ts";

/** For tests: connections that say just what they are told. */

export interface RawCertificate {
  leaf: TestCertificate;
  /** PEM, leaf first */
  chain: string;
}

export const CONNACK = Buffer.from([0x20, 2, 0, 0]);

/**
 * A finished handshake. What the server then says is in `said`.
 * @param from another loopback address than one's own: refusals are counted by address
 */
export async function dial(
  hub: Pick<TestHub, "mqttPort" | "infraCa">,
  { leaf, chain }: RawCertificate,
  options: { host?: string; port?: number; from?: string } = {},
): Promise<{ socket: TLSSocket; said: () => Buffer; closed: Promise<void> }> {
  const { host = "127.0.0.1", port = hub.mqttPort, from } = options;
  const target: ConnectionOptions & { localAddress?: string } = {
    host,
    port,
    servername: "localhost",
    ca: hub.infraCa.pem,
    cert: chain,
    key: leaf.keyPem,
    ...(from === undefined ? {} : { localAddress: from }),
  };
  const socket = connect(target);
  const parts: Buffer[] = [];
  socket.on("data", (part: Buffer) => parts.push(part)).on("error", () => undefined);
  const closed = new Promise<void>((resolve) => socket.once("close", () => resolve()));
  await Promise.race([
    once(socket, "secureConnect"),
    closed.then(() => {
      throw new Error("closed before the handshake was over");
    }),
  ]);
  return { socket, said: () => Buffer.concat(parts), closed };
}
