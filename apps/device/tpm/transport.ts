import { open } from "node:fs/promises";
import { connect } from "node:net";
import { CountersignError } from "../../../lib/domain/errors.ts";

/** Sends a TPM one command and gives its response; one at a time. */
export interface TpmTransport {
  exchange(command: Uint8Array): Promise<Uint8Array>;
  close(): Promise<void>;
}

const MAX_RESPONSE = 4096;
const TIMEOUT_MS = 60_000;

/**
 * A TPM by the name that tpm2-tools use for it: `device:/dev/tpmrm0`, or `swtpm:host=127.0.0.1,port=2321`.
 * @throws CountersignError `input-invalid`, `component-unreachable`
 */
export async function openTpm(tcti: string): Promise<TpmTransport> {
  const device = /^device:(\/[^\0]{1,200})$/.exec(tcti)?.[1];
  if (device !== undefined) return await overDevice(device);
  const [, host, port] = /^swtpm:host=([A-Za-z0-9.:-]{1,100}),port=([0-9]{1,5})$/.exec(tcti) ?? [];
  if (host !== undefined) return await overTcp(host, Number(port));
  throw new CountersignError("input-invalid", "name a TPM as device:/dev/tpmrm0 or swtpm:host=HOST,port=PORT");
}

async function overDevice(path: string): Promise<TpmTransport> {
  const file = await open(path, "r+").catch((cause: unknown) => {
    throw new CountersignError("component-unreachable", `the TPM ${path} can't be opened: is this user in its group?`, {
      cause,
    });
  });
  return {
    async exchange(command) {
      await file.write(command);
      const { buffer, bytesRead } = await file.read(Buffer.alloc(MAX_RESPONSE), 0, MAX_RESPONSE, null);
      return new Uint8Array(buffer.subarray(0, bytesRead));
    },
    close: () => file.close(),
  };
}

async function overTcp(host: string, port: number): Promise<TpmTransport> {
  const socket = connect({ host, port, noDelay: true });
  await new Promise<void>((resolve, reject) => {
    socket.once("connect", resolve);
    socket.once("error", (cause) =>
      reject(new CountersignError("component-unreachable", `no TPM answers at ${host}:${port}`, { cause })),
    );
  });
  const lost = (cause?: Error) =>
    new CountersignError("component-unreachable", "the TPM's connection ended", { cause });
  return {
    exchange: (command) =>
      new Promise((resolve, reject) => {
        let response = Buffer.alloc(0);
        const settle = (act: () => void): void => {
          clearTimeout(timer);
          socket.off("data", take).off("close", closed).off("error", failed);
          act();
        };
        const take = (part: Buffer): void => {
          response = Buffer.concat([response, part]);
          const size = response.length < 6 ? MAX_RESPONSE : response.readUInt32BE(2);
          if (size > MAX_RESPONSE || response.length > size) settle(() => reject(lost()));
          else if (response.length === size) settle(() => resolve(new Uint8Array(response)));
        };
        const closed = (): void => settle(() => reject(lost()));
        const failed = (error: Error): void => settle(() => reject(lost(error)));
        const timer = setTimeout(() => socket.destroy(), TIMEOUT_MS);
        socket.on("data", take).once("close", closed).once("error", failed);
        socket.write(command);
      }),
    close: async () => {
      socket.destroy();
    },
  };
}
