import { readFileSync } from "node:fs";
import { Agent, request } from "node:https";
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from "vitest";
import { nodeVerify } from "../../../hsm/index.ts";
import { encodeWire, ENVELOPE_MEDIA_TYPE, splitWire } from "../../../services/parties/envelope.ts";
import { Inbox } from "../../../services/parties/inbox.ts";
import type { Db } from "../../../store/db.ts";
import { softhsmDir } from "../../../test/support/index.ts";
import {
  Correspondent,
  invite,
  joinBody,
  makeTestParty,
  siteDatabase,
  type TestParty,
} from "../../../test/support/parties.ts";
import { createLogger } from "../../http/logger.ts";
import { createServer, type HttpsServer } from "../../http/server.ts";
import { registerInbox } from "./inbox.ts";

/** The inbox over TLS, and senders that are in no hurry. */

let db: Db;
let site: TestParty;
let known: TestParty;
let stranger: TestParty;
let server: HttpsServer;
let port: number;
let letters: Correspondent;
const agents: Agent[] = [];

beforeAll(async () => {
  const hsm = softhsmDir();
  site = await makeTestParty(hsm, "company-x");
  known = await makeTestParty(hsm, "factory-y");
  stranger = await makeTestParty(hsm, "mallory");
  db = await siteDatabase();
  server = createServer({
    tls: { key: readFileSync(site.server.keyFile, "utf8"), cert: readFileSync(site.server.certFile, "utf8") },
    logger: createLogger({ name: "test", level: "silent" }),
  });
  registerInbox(server, { inbox: new Inbox({ db, party: "company-x", verify: nodeVerify }) });
  await server.listen({ host: "127.0.0.1", port: 0 });
  port = (server.server.address() as { port: number }).port;
});
afterAll(async () => {
  await server?.close();
  await db?.end();
  await Promise.all([site, known, stranger].map((party) => party?.close()));
});
beforeEach(async () => {
  await db.query("TRUNCATE peer, invitation, delegation, inbox, outbox CASCADE");
  letters = new Correspondent(known, "company-x");
  const { wire } = await letters.write("join", await joinBody(known, await invite(db, site, "factory-y")));
  expect(await send(wire)).toMatchObject({ status: 200, state: "stored" });
});
afterEach(() => agents.splice(0).forEach((agent) => agent.destroy()));

interface Answer {
  readonly status: number;
  readonly code?: string;
  readonly state?: string;
  readonly ms: number;
}

/** Sends these bytes of a request that has `length`; the rest never comes. */
function send(bytes: Uint8Array, length = bytes.length, type = ENVELOPE_MEDIA_TYPE): Promise<Answer> {
  const agent = new Agent({ rejectUnauthorized: false });
  agents.push(agent);
  const began = performance.now();
  return new Promise<Answer>((done, fail) => {
    const headers = { "content-type": type, "content-length": length };
    const call = request({ host: "127.0.0.1", port, path: "/inbox", method: "POST", agent, headers }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (part: string) => (text += part));
      response.on("error", fail);
      response.on("end", () =>
        done({ ...(JSON.parse(text) as object), status: response.statusCode!, ms: performance.now() - began }),
      );
    });
    call.on("error", fail);
    call.flushHeaders();
    if (bytes.length === length) call.end(bytes);
    else call.write(bytes);
  });
}

async function joinOf(party: TestParty): Promise<Uint8Array> {
  const invitation = await invite(db, site, party.identity.party);
  return (await new Correspondent(party, "company-x").write("join", await joinBody(party, invitation))).wire;
}
const lineOf = (wire: Uint8Array): Uint8Array => encodeWire(splitWire(wire).line, new Uint8Array(0));

it("serves a known party while strangers hold all that strangers may have, and cuts those off", async () => {
  const join = await joinOf(stranger);
  // Whole lines without bodies, and lines that don't end.
  const held = Array.from({ length: 20 }, () => send(lineOf(join), join.length));
  const dumb = Array.from({ length: 20 }, () => send(new Uint8Array(10).fill(0x20), 1000));
  const busy = await Promise.race(held);
  expect(busy).toMatchObject({ status: 503, code: "timeout" });
  for (let n = 0; n < 3; n++) {
    const { wire } = await letters.write("acceptance", { act: "" });
    const answer = await send(wire);
    expect(answer).toMatchObject({ status: 200, state: "stored" });
    expect(answer.ms).toBeLessThan(4_000);
  }
  for (const answer of await Promise.all(dumb)) {
    expect(answer).toMatchObject({ status: 503, code: "timeout" });
    expect(answer.ms).toBeLessThan(9_000);
  }
  const answers = await Promise.all(held);
  expect(answers.every(({ status, ms }) => status === 503 && ms < 15_000)).toBe(true);
  expect(answers.filter(({ ms }) => ms > 9_000)).toHaveLength(4);
  // And their slots are free again.
  expect(await send(join)).toMatchObject({ status: 200 });
});

it("gives a known party no more than its own slots", async () => {
  const { wire } = await letters.write("acceptance", { act: "" });
  const [late] = await Promise.all(
    [send(lineOf(wire), wire.length), send(lineOf(wire), wire.length)].map((one) => Promise.race([one, pause(500)])),
  );
  expect(late).toBeUndefined();
  expect(await send(wire)).toMatchObject({ status: 503, code: "timeout" });
  // Another's are its own.
  expect(await send(await joinOf(stranger))).toMatchObject({ status: 200 });
});

it("says no by the line alone, before a body is waited for", async () => {
  const forged = new Correspondent(
    { ...stranger, identity: { ...stranger.identity, party: "factory-y" } },
    "company-x",
  );
  const { wire } = await forged.write("acceptance", { act: "" });
  const large = 60 << 20;
  expect(await send(lineOf(wire), large)).toMatchObject({ status: 403, code: "envelope-forged" });
  const unknown = await new Correspondent(stranger, "company-x").write("handoff-release", { act: "" } as never);
  expect(await send(lineOf(unknown.wire), large)).toMatchObject({ status: 403, code: "sender-unknown" });
  expect(await send(new Uint8Array(20_000).fill(0x20), large)).toMatchObject({ status: 413, code: "input-too-large" });
  const good = (await letters.write("acceptance", { act: "" })).wire;
  expect(await send(good, good.length, "text/plain")).toMatchObject({ status: 400, code: "envelope-invalid" });
  expect(await send(encodeWire(good, Uint8Array.of(1)))).toMatchObject({ status: 413, code: "input-too-large" });
  expect(await send(good)).toMatchObject({ status: 200 });
});

const pause = (ms: number): Promise<undefined> => new Promise((wake) => setTimeout(wake, ms, undefined));
