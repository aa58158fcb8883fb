import { z } from "zod";
import { CountersignError } from "../../lib/domain/errors.ts";
import { matchesGroup, parseGroupQuery } from "../../lib/records/group-query.ts";
import type { Db } from "../../store/db.ts";
import { listDevices } from "../../store/hub-devices.ts";
import { readDeviceCustody } from "../../store/hub-custody.ts";
import { listGroups, putGroup, removeGroup, setGroupDisabled } from "../../store/hub-groups.ts";
import { clientOf, requireClient } from "../http/client.ts";
import { parseInput } from "../http/input.ts";
import type { HttpsServer } from "../http/server.ts";
import { CaParams, EnrolmentBody, found } from "./api.ts";
import { factsOfDevice, parsePolicyQuery, withCustody } from "./groups.ts";
import type { Registry } from "./registry.ts";

const Query = z.string().min(1).max(1000);
const Asked = z.strictObject({ query: Query });
const GroupBody = z.strictObject({
  query: Query,
  enrolment: EnrolmentBody.shape.enrolment.nullable().default(null),
  scopes: z
    .array(z.enum(["telemetry", "messages", "twin", "methods"]))
    .max(4)
    .nullable()
    .default(null),
});

const MAX_GROUPS = 100;
const PAGE = 1000;

/** Groups by chain and custody: what their devices may do, whether they may come at all, and who is in one. */
export function groupsApi(server: HttpsServer, hub: { db: Db; registry: Registry }): void {
  const { db, registry } = hub;
  const operator = { onRequest: requireClient("operator") };

  server.get("/api/v1/groups", operator, async () => ({ groups: await listGroups(db) }));
  server.put("/api/v1/groups/:name", operator, async (request) => {
    const { name } = parseInput(CaParams, request.params, "path");
    const body = parseInput(GroupBody, request.body, "request body");
    parsePolicyQuery(body.query);
    const all = await listGroups(db);
    if (all.length >= MAX_GROUPS && !all.some((one) => one.name === name)) {
      throw new CountersignError("hub-refused", `this hub has at most ${MAX_GROUPS} groups`);
    }
    const group = await putGroup(db, { name, ...body });
    await registry.reload();
    return group;
  });
  for (const verb of ["disable", "enable"] as const) {
    server.post(`/api/v1/groups/:name/${verb}`, operator, async (request) => {
      const { name } = parseInput(CaParams, request.params, "path");
      const group = found(await setGroupDisabled(db, name, verb === "disable"), `group ${name}`);
      await registry.reload();
      request.log.warn({ group: name, by: clientOf(request).commonName }, `group ${verb}d`);
      return group;
    });
  }
  server.delete("/api/v1/groups/:name", operator, async (request, reply) => {
    const { name } = parseInput(CaParams, request.params, "path");
    found((await removeGroup(db, name)) || undefined, `group ${name}`);
    await registry.reload();
    return reply.code(204).send();
  });
  /** Who is in a group, by what the hub last saw of each device. */
  server.post("/api/v1/groups/ask", operator, async (request) => {
    const query = parseGroupQuery(parseInput(Asked, request.body, "request body").query);
    const devices: string[] = [];
    for (let after: string | undefined = ""; after !== undefined;) {
      const page = await listDevices(db, { after, limit: PAGE });
      const custody = await readDeviceCustody(
        db,
        page.map(({ deviceId }) => deviceId),
      );
      for (const one of page) {
        const passport = custody.get(one.deviceId);
        const facts = withCustody(factsOfDevice(one), passport?.keySha256, passport);
        if (matchesGroup(query, facts)) devices.push(one.deviceId);
      }
      after = page.length === PAGE ? page.at(-1)?.deviceId : undefined;
    }
    return { devices };
  });
}
