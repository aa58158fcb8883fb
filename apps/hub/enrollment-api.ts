import { z } from "zod";
import { CountersignError } from "../../lib/domain/errors.ts";
import type { Db } from "../../store/db.ts";
import {
  createEnrollmentGroup,
  listEnrollmentGroups,
  removeEnrollmentGroup,
  setEnrollmentGroup,
} from "../../store/hub-enrollment.ts";
import { requireClient } from "../http/client.ts";
import { parseInput } from "../http/input.ts";
import type { HttpsServer } from "../http/server.ts";

const Name = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/, "1 to 64 of A-Z a-z 0-9 . _ -");
const Params = z.strictObject({ name: Name });
const CreateBody = z.strictObject({ name: Name, ca: Name });

/** The part of the management API about device provisioning. */
export function enrollmentApi(server: HttpsServer, { db }: { db: Db }): void {
  const operator = { onRequest: requireClient("operator") };
  const unknown = (name: string) => new CountersignError("not-found", `the hub has no enrollment group ${name}`);

  server.get("/api/v1/enrollment-groups", operator, async () => ({ groups: await listEnrollmentGroups(db) }));
  server.post("/api/v1/enrollment-groups", operator, async (request, reply) => {
    const { name, ca } = parseInput(CreateBody, request.body, "request body");
    return reply.code(201).send(await createEnrollmentGroup(db, name, ca));
  });
  for (const [verb, state] of [
    ["disable", "disabled"],
    ["enable", "enabled"],
  ] as const) {
    server.post(`/api/v1/enrollment-groups/:name/${verb}`, operator, async (request) => {
      const { name } = parseInput(Params, request.params, "path");
      const group = await setEnrollmentGroup(db, name, state);
      if (group === undefined) throw unknown(name);
      return group;
    });
  }
  server.delete("/api/v1/enrollment-groups/:name", operator, async (request, reply) => {
    const { name } = parseInput(Params, request.params, "path");
    if (!(await removeEnrollmentGroup(db, name))) throw unknown(name);
    return reply.code(204).send();
  });
}
