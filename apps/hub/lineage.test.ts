import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { registerTestCa, startTestHub, type TestHub } from "../../test/support/hub-process.ts";
import { CLIENT_AUTH, testCertificate, type TestCertificate } from "../../test/support/test-pki.ts";
import { connectDevice } from "../device/connect.ts";

/** A CA that was renewed has two certificates at the hub for one key: neither is a way around what was said of the other. */

let hub: TestHub;
let first: TestCertificate;
let renewed: TestCertificate;

beforeAll(async () => {
  hub = await startTestHub();
  first = await testCertificate("CN=factory", { ca: true });
  renewed = await testCertificate("CN=factory", { ca: true, keys: first.keys });
  await registerTestCa(hub, "factory", first);
});
afterAll(() => hub?.stop());

async function visit(id: string, issuer: TestCertificate): Promise<"in" | "out"> {
  const leaf = await testCertificate(`CN=${id}`, { issuer, eku: [CLIENT_AUTH] });
  return connectDevice({
    deviceId: id,
    hub: hub.address,
    ca: hub.infraCa.pem,
    chain: leaf.pem,
    credentials: { key: leaf.keyPem },
    messages: 1,
    timeoutMs: 10_000,
  }).then(
    () => "in",
    (error: { code?: string }) => {
      expect(error.code).toBe("hub-refused");
      return "out";
    },
  );
}

const say = async (name: string, verb: string) =>
  expect((await hub.api("POST", `/api/v1/cas/${name}/${verb}`, {})).status).toBe(200);

async function succeed(name: string, ca: TestCertificate, before: string): Promise<Record<string, unknown>> {
  const offered = await hub.api("POST", "/api/v1/cas", { name, succeeds: before, certificate: ca.pem });
  const verification = await testCertificate(`CN=${String(offered.body["code"])}`, { issuer: ca });
  const proof = { ca: ca.pem, verification: verification.pem };
  return (await hub.api("POST", `/api/v1/cas/${name}/verify`, proof)).body;
}

describe("a CA's later certificate", () => {
  it("joins its lineage's terms, also when its code was asked for before anybody said so", async () => {
    await hub.api("PUT", "/api/v1/cas/factory/enrolment", { enrolment: "registered" });
    await hub.api("PUT", "/api/v1/cas/factory/unlogged", { unlogged: "refuse" });
    await hub.api("POST", "/api/v1/cas", { name: "factory-2" });
    expect(await succeed("factory-2", renewed, "factory")).toMatchObject({
      ...{ state: "verified", lineage: "factory", enrolment: "registered", unlogged: "refuse" },
    });
    expect(await visit("dev-stranger", renewed)).toBe("out");
  });

  it("has what is said of the lineage later, by whichever name", async () => {
    await hub.api("PUT", "/api/v1/cas/factory-2/enrolment", { enrolment: "first-connect" });
    await hub.api("PUT", "/api/v1/cas/factory/unlogged", { unlogged: "alarm" });
    const { body } = await hub.api("GET", "/api/v1/cas");
    const terms = (body["cas"] as Record<string, unknown>[]).map(({ enrolment, unlogged }) => [enrolment, unlogged]);
    expect(terms).toEqual(Array(2).fill(["first-connect", "alarm"]));
    expect(await visit("dev-1", first)).toBe("in");
  });

  it.each(["factory", "factory-2"])("lets nobody in while %s is disabled", async (name) => {
    await say(name, "disable");
    expect([await visit("dev-2", first), await visit("dev-3", renewed)]).toEqual(["out", "out"]);
    await say(name, "enable");
  });

  it("isn't a way back for a CA that was disabled before it came", async () => {
    await say("factory", "disable");
    const third = await testCertificate("CN=factory, O=new key", { ca: true });
    expect(await succeed("factory-3", third, "factory")).toMatchObject({ disabledAt: expect.any(String) as string });
    expect(await visit("dev-4", third)).toBe("out");
    await say("factory", "enable");
    await say("factory-3", "enable");
    expect(await visit("dev-4", third)).toBe("in");
  });
});
