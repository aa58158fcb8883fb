import type { Logger } from "../http/logger.ts";
import { createPlainServer, createServer, type HttpServer, type HttpsServer } from "../http/server.ts";
import type { GatewayDeps } from "./deps.ts";
import { registerHub } from "./routes/hub.ts";
import { registerInbox } from "./routes/inbox.ts";
import { registerLedger } from "./routes/ledger.ts";
import { registerParties } from "./routes/parties.ts";
import { registerCrl, registerPublic } from "./routes/public.ts";
import { registerRevocations } from "./routes/revocations.ts";
import { registerRotations } from "./routes/rotations.ts";
import { registerSite } from "./routes/site.ts";
import { registerWitness } from "./routes/witness.ts";

export interface GatewaySettings {
  readonly host: string;
  readonly port: number;
  readonly publicPort: number;
  /** PEM */
  readonly tls: { readonly key: string; readonly cert: string; readonly clientCa: string };
  readonly logger: Logger;
}

export interface Gateway {
  /** the ports that are listened on, where 0 was asked for */
  readonly port: number;
  readonly publicPort: number;
  close(): Promise<void>;
}

/** Adds routes of other concerns to the HTTPS side before it listens. */
export type RegisterRoutes = (app: HttpsServer) => void;

/** One site's front door: HTTPS for operators, stations and other sites; plain HTTP for what is signed anyway. */
export async function startGateway(
  settings: GatewaySettings,
  deps: GatewayDeps,
  more: readonly RegisterRoutes[] = [],
): Promise<Gateway> {
  const secure = createServer({ tls: settings.tls, logger: settings.logger });
  registerSite(secure, deps);
  registerParties(secure, deps);
  registerHub(secure, deps);
  registerRevocations(secure, deps);
  registerRotations(secure, deps);
  registerInbox(secure, deps);
  registerLedger(secure, deps);
  registerCrl(secure, deps);
  for (const register of more) register(secure);

  const plain = createPlainServer({ logger: settings.logger, bodyLimit: 1024 });
  registerPublic(plain, deps);
  registerLedger(plain, deps);
  registerWitness(plain, deps);

  const { host } = settings;
  try {
    await secure.listen({ host, port: settings.port });
    await plain.listen({ host, port: settings.publicPort });
  } catch (error) {
    await Promise.allSettled([secure.close(), plain.close()]);
    throw error;
  }
  return {
    port: portOf(secure),
    publicPort: portOf(plain),
    close: async () => {
      await Promise.all([secure.close(), plain.close()]);
    },
  };
}

function portOf(server: HttpServer | HttpsServer): number {
  const address = server.server.address();
  return typeof address === "object" && address !== null ? address.port : 0;
}
