import type { FastifyReply, FastifyRequest } from "fastify";
import { z } from "zod";
import { CountersignError } from "../../lib/domain/errors.ts";
import type { Db } from "../../store/db.ts";
import { findCa, listCas, removeCa, setCaDisabled, setCaEnrolment, setCaUnlogged } from "../../store/hub-cas.ts";
import { createDevice, findDevice, listDevices, removeDevice, setDeviceState } from "../../store/hub-devices.ts";
import { countTelemetry } from "../../store/hub-telemetry.ts";
import { hubTotals } from "../../store/hub.ts";
import { clientOf, requireClient } from "../http/client.ts";
import { listAlarms } from "../../store/hub-monitor.ts";
import { parseInput } from "../http/input.ts";
import { problemOf } from "../http/problem.ts";
import type { HttpsServer } from "../http/server.ts";
import { CaName, CaParams, DeviceParams, EnrolmentBody, found, Pem, UnloggedBody } from "./api.ts";
import type { Html } from "./html.ts";
import { fieldsOnce, multipartFields } from "./form-fields.ts";
import { caPage, devicePage, devicesPage, homePage, STYLE } from "./page-views.ts";
import { offer, verify } from "./registration.ts";
import type { Registry } from "./registry.ts";

/** No script runs and nothing is loaded from elsewhere; a form goes nowhere but here. */
const HEADERS = {
  "content-security-policy":
    "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "same-origin",
  "cache-control": "no-store",
} as const;

const OfferForm = z.strictObject({ name: CaName, certificate: Pem.or(z.literal("")) });
const VerifyForm = z.strictObject({ ca: Pem, verification: Pem });
const Nothing = z.strictObject({});
const Page = z.strictObject({ after: z.string().max(64).default("") });
const PAGE = 100;

/** Alarms on a page: the API has the rest. */
const MAX_ALARMS = 100;

/** The operator's pages: registering a CA and its proof of possession, devices. Plain forms, no script. */
export function hubPages(server: HttpsServer, hub: { db: Db; registry: Registry; codeHours: number }): void {
  const { db, registry } = hub;
  const operator = requireClient("operator");
  server.addContentTypeParser(
    "application/x-www-form-urlencoded",
    { parseAs: "string" },
    async (_request: FastifyRequest, body: string) => fieldsOnce([...new URLSearchParams(body)]),
  );
  server.addContentTypeParser(
    "multipart/form-data",
    { parseAs: "buffer" },
    async (request: FastifyRequest, body: Buffer) =>
      fieldsOnce(await multipartFields(body, request.headers["content-type"] ?? "")),
  );

  const show = (reply: FastifyReply, page: Html, status = 200): FastifyReply =>
    reply.code(status).headers(HEADERS).type("text/html; charset=utf-8").send(page.text);

  server.get("/style.css", async (_request, reply) => reply.type("text/css; charset=utf-8").send(STYLE));
  const home = async (fault?: string): Promise<Html> =>
    homePage(await listCas(db), await hubTotals(db), await listAlarms(db, MAX_ALARMS), fault);
  const ca = async (name: string, fault?: string): Promise<Html> =>
    caPage(found(await findCa(db, name), `CA ${name}`), fault);
  const devices = async (after: string, fault?: string): Promise<Html> =>
    devicesPage(await listDevices(db, { after, limit: PAGE }), PAGE, fault);
  const device = async (id: string, fault?: string): Promise<Html> =>
    devicePage(found(await findDevice(db, id), `device ${id}`), await countTelemetry(db, id), fault);

  const page = (path: string, view: (request: FastifyRequest) => Promise<Html>): void => {
    server.get(path, { preHandler: operator }, async (request, reply) => show(reply, await view(request)));
  };
  page("/", () => home());
  page("/cas/:name", (request) => ca(parseInput(CaParams, request.params, "path").name));
  page("/devices", (request) => devices(parseInput(Page, request.query, "query").after));
  page("/devices/:id", (request) => device(parseInput(DeviceParams, request.params, "path").id));

  /** @param work answers where to go on; what it refuses is said on the page the form is on */
  const form = (path: string, work: (request: FastifyRequest) => Promise<string>, back: Back): void => {
    server.post(path, { preHandler: [operator, sameOrigin] }, async (request, reply) => {
      try {
        const next = await work(request);
        request.log.info({ form: path, by: clientOf(request).commonName }, "done by form");
        return await reply.code(303).header("location", next).send();
      } catch (error) {
        const { status, detail, code } = problemOf(error);
        if (status >= 500) throw error;
        request.problemCode = code;
        return show(reply, await back(request, detail), status);
      }
    });
  };
  const nameOf = (request: FastifyRequest): string => parseInput(CaParams, request.params, "path").name;
  const idOf = (request: FastifyRequest): string => parseInput(DeviceParams, request.params, "path").id;
  const onCa: Back = (request, fault) => ca(nameOf(request), fault);
  const onDevice: Back = (request, fault) => device(idOf(request), fault);

  form(
    "/cas",
    async (request) => {
      const { name, certificate } = parseInput(OfferForm, request.body, "form");
      const more = certificate === "" ? {} : { certificate };
      await offer(db, { name, ...more }, { hours: hub.codeHours, now: new Date() });
      return `/cas/${name}`;
    },
    (_request, fault) => home(fault),
  );
  form(
    "/cas/:name/verify",
    async (request) => {
      const name = nameOf(request);
      await verify(db, { name, ...parseInput(VerifyForm, request.body, "form") }, new Date());
      await registry.reload();
      return `/cas/${name}`;
    },
    onCa,
  );
  form(
    "/cas/:name/code",
    async (request) => {
      const name = nameOf(request);
      parseInput(Nothing, request.body, "form");
      await offer(db, { name }, { hours: hub.codeHours, now: new Date() });
      return `/cas/${name}`;
    },
    onCa,
  );
  for (const verb of ["disable", "enable"] as const) {
    form(
      `/cas/:name/${verb}`,
      async (request) => {
        const name = nameOf(request);
        found(await setCaDisabled(db, name, verb === "disable"), `CA ${name}`);
        await registry.reload();
        return `/cas/${name}`;
      },
      onCa,
    );
    form(
      `/devices/:id/${verb}`,
      async (request) => {
        const id = idOf(request);
        found(await setDeviceState(db, id, verb === "disable" ? "disabled" : "enabled"), `device ${id}`);
        await registry.recheck([id]);
        return `/devices/${encodeURIComponent(id)}`;
      },
      onDevice,
    );
  }
  form(
    "/cas/:name/enrolment",
    async (request) => {
      const name = nameOf(request);
      const { enrolment } = parseInput(EnrolmentBody, request.body, "form");
      found(await setCaEnrolment(db, name, enrolment), `CA ${name}`);
      await registry.reload();
      return `/cas/${name}`;
    },
    onCa,
  );
  form(
    "/cas/:name/unlogged",
    async (request) => {
      const name = nameOf(request);
      const { unlogged } = parseInput(UnloggedBody, request.body, "form");
      found(await setCaUnlogged(db, name, unlogged), `CA ${name}`);
      await registry.reload();
      return `/cas/${name}`;
    },
    onCa,
  );
  form(
    "/cas/:name/remove",
    async (request) => {
      const name = nameOf(request);
      found((await removeCa(db, name)) || undefined, `CA ${name}`);
      await registry.reload();
      return "/";
    },
    onCa,
  );
  form(
    "/devices",
    async (request) => {
      const { id } = parseInput(DeviceParams, request.body, "form");
      await createDevice(db, id);
      return `/devices/${encodeURIComponent(id)}`;
    },
    (_request, fault) => devices("", fault),
  );
  form(
    "/devices/:id/remove",
    async (request) => {
      const id = idOf(request);
      found((await removeDevice(db, id)) || undefined, `device ${id}`);
      await registry.recheck([id]);
      return "/devices";
    },
    onDevice,
  );
}

type Back = (request: FastifyRequest, fault: string) => Promise<Html>;

/**
 * A browser sends its client certificate along with whatever another site makes it post: only forms of our own pages
 * count. A browser always says where a form comes from.
 */
async function sameOrigin(request: FastifyRequest): Promise<void> {
  const { origin, host } = request.headers;
  if (origin === `https://${host}`) return;
  throw new CountersignError("unauthorized", "this form isn't one of the hub's own pages");
}
