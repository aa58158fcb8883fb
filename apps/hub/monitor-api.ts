import type { Db } from "../../store/db.ts";
import { setCaUnlogged } from "../../store/hub-cas.ts";
import { listAlarms, listLedgers } from "../../store/hub-monitor.ts";
import { clientOf, requireClient } from "../http/client.ts";
import { parseInput } from "../http/input.ts";
import type { HttpsServer } from "../http/server.ts";
import { CaParams, found, shownCa, UnloggedBody } from "./api.ts";
import type { HubConfig } from "./config.ts";
import type { Registry } from "./registry.ts";

const MAX_SHOWN = 1000;

/** The ledgers that are followed, what is wrong with them, and what it means for a CA's devices: for operators. */
export function monitorApi(
  server: HttpsServer,
  hub: { db: Db; registry: Registry; settings: HubConfig["monitor"] },
): void {
  const { db, registry, settings } = hub;
  const operator = { onRequest: requireClient("operator") };

  server.get("/api/v1/monitor", operator, async () => {
    const [ledgers, alarms] = await Promise.all([listLedgers(db), listAlarms(db, MAX_SHOWN)]);
    const looks = new Map(ledgers.map((one) => [one.party, one]));
    return {
      ledgers: (settings?.ledgers ?? []).map(({ party, url, vkey }) => {
        const look = looks.get(party);
        return {
          ...{ party, origin: vkey.split("+")[0], url },
          ...{
            size: look?.size ?? 0,
            entries: look?.next ?? 0,
            state: look?.state ?? null,
            error: look?.error ?? null,
          },
          ...{ lookedAt: look?.lookedAt ?? null, followedAt: look?.followedAt ?? null },
        };
      }),
      alarms: alarms.map(({ id, code, party, subject, message, since, index, evidence }) => ({
        ...{ id, code, party, subject, message, since },
        ...(index === undefined ? {} : { index }),
        ...(evidence === undefined ? {} : { evidence }),
      })),
    };
  });

  server.put("/api/v1/cas/:name/unlogged", operator, async (request) => {
    const { name } = parseInput(CaParams, request.params, "path");
    const { unlogged } = parseInput(UnloggedBody, request.body, "request body");
    const ca = found(await setCaUnlogged(db, name, unlogged), `CA ${name}`);
    await registry.reload();
    request.log.warn({ ca: name, unlogged, by: clientOf(request).commonName }, "policy for unlogged certificates set");
    return shownCa(ca);
  });
}
