import { z } from "zod";
import { CountersignError } from "../../../lib/domain/errors.ts";
import type { Openings } from "../../../lib/records/opening.ts";
import { deviceId } from "../../../lib/records/primitives.ts";
import { inTransaction } from "../../../store/db.ts";
import { findDevice } from "../../../store/devices.ts";
import { eraseOpenings, findErasures, findOpenings } from "../../../store/installations.ts";
import { clientOf, requireClient } from "../../http/client.ts";
import { parseInput } from "../../http/input.ts";
import type { HttpsServer } from "../../http/server.ts";
import type { GatewayDeps } from "../deps.ts";

const deviceParams = z.strictObject({ id: deviceId });
const erasureBody = z.strictObject({
  fields: z
    .array(z.enum(["place", "time"]))
    .min(1)
    .max(2)
    .optional(),
});

/** Personal values behind a device's commitments: shown to whoever the operator shows them to, and erased. */
export function registerOpenings(app: HttpsServer, { db }: Pick<GatewayDeps, "db">): void {
  const operators = { onRequest: requireClient("operator") };
  const unknown = (id: string) => new CountersignError("not-found", `this site knows no device ${id}`);

  app.get("/api/v1/devices/:id/openings", operators, async (request): Promise<Openings> => {
    const { id } = parseInput(deviceParams, request.params, "path");
    if (!(await findDevice(db, id))) throw unknown(id);
    return { schema: 1, deviceId: id, openings: await findOpenings(db, id) };
  });

  app.post("/api/v1/devices/:id/erasures", operators, async (request) => {
    const { id } = parseInput(deviceParams, request.params, "path");
    const { fields } = parseInput(erasureBody, request.body ?? {}, "request body");
    const { commonName } = clientOf(request);
    return await inTransaction(db, async (tx) => {
      const erased = await eraseOpenings(tx, id, commonName, fields);
      const erasures = await findErasures(tx, id);
      // A value may have come for a device that isn't here: it was refused, and is erased all the same.
      if (erasures.length === 0 && !(await findDevice(tx, id))) throw unknown(id);
      const left = (await findOpenings(tx, id)).map(({ domain }) => domain);
      return { deviceId: id, erased, erasures, left };
    });
  });
}
