import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { connect, type Db } from "../../store/db.ts";
import { startTestHub, type TestHub } from "../../test/support/hub-process.ts";
import { testCertificate, type TestCertificate } from "../../test/support/test-pki.ts";

let hub: TestHub;
let db: Db;
let root: TestCertificate;

beforeAll(async () => {
  hub = await startTestHub();
  db = connect(hub.databaseUrl);
  root = await testCertificate("CN=root", { ca: true });
});

afterAll(async () => {
  await db?.end();
  await hub?.stop();
});

async function codeFor(name: string, certificate?: string): Promise<string> {
  const answer = await hub.api("POST", "/api/v1/cas", { name, ...(certificate === undefined ? {} : { certificate }) });
  expect(answer.status).toBe(201);
  expect(answer.body["state"]).toBe("unverified");
  return answer.body["code"] as string;
}

const verify = (name: string, ca: string, verification: string) =>
  hub.api("POST", `/api/v1/cas/${name}/verify`, { ca, verification });

async function stateOf(name: string): Promise<unknown> {
  return (await hub.api("GET", `/api/v1/cas/${name}`)).body["state"];
}

describe("registering a CA", () => {
  it("verifies one whose key signed the code, though the code came before the CA was born", async () => {
    const code = await codeFor("born-later");
    expect(code).toMatch(/^[0-9a-f]{48}$/);
    const ca = await testCertificate("CN=born later", { ca: true });
    const verification = await testCertificate(`CN=${code}`, { issuer: ca });
    const answer = await verify("born-later", ca.pem, verification.pem);
    expect(answer).toMatchObject({ status: 200, body: { name: "born-later", state: "verified" } });
    expect(answer.body["code"]).toBeUndefined();
    expect(await verify("born-later", ca.pem, verification.pem)).toMatchObject({ body: { code: "already-exists" } });
    // The same CA under a second name would have two owners.
    const again = await testCertificate(`CN=${await codeFor("second-name")}`, { issuer: ca });
    expect(await verify("second-name", ca.pem, again.pem)).toMatchObject({
      status: 409,
      body: { code: "already-exists" },
    });
  });

  it("gives the same code while it is good, so that a ceremony's input stays true", async () => {
    expect(await codeFor("twice")).toBe(await codeFor("twice"));
  });

  it("takes the CA first, and then only that one", async () => {
    const code = await codeFor("uploaded", root.pem);
    const other = await testCertificate("CN=root", { ca: true });
    const wrong = await testCertificate(`CN=${code}`, { issuer: other });
    expect(await verify("uploaded", other.pem, wrong.pem)).toMatchObject({
      status: 409,
      body: { code: "state-conflict" },
    });
    const right = await testCertificate(`CN=${code}`, { issuer: root });
    expect(await verify("uploaded", root.pem, right.pem)).toMatchObject({ status: 200 });
  });

  it("refuses an expired code, and gives a new one", async () => {
    const code = await codeFor("late");
    await db.query("UPDATE hub_ca SET code_expires_at = now() - interval '1 second' WHERE name = 'late'");
    const verification = await testCertificate(`CN=${code}`, { issuer: root });
    expect(await verify("late", root.pem, verification.pem)).toMatchObject({
      status: 403,
      body: { code: "hub-code-expired" },
    });
    expect(await codeFor("late")).not.toBe(code);
    expect(await verify("late", root.pem, verification.pem)).toMatchObject({
      status: 403,
      body: { code: "hub-code-wrong" },
    });
    expect(await stateOf("late")).toBe("unverified");
  });

  it("refuses another name's code, a wrong CN and a stranger's signature", async () => {
    const code = await codeFor("mine");
    const foreign = await testCertificate(`CN=${await codeFor("theirs")}`, { issuer: root });
    expect(await verify("mine", root.pem, foreign.pem)).toMatchObject({
      status: 403,
      body: { code: "hub-code-wrong" },
    });
    const wrong = await testCertificate("CN=mine", { issuer: root });
    expect(await verify("mine", root.pem, wrong.pem)).toMatchObject({ body: { code: "hub-code-wrong" } });
    const impostor = await testCertificate("CN=root", { ca: true });
    const forged = await testCertificate(`CN=${code}`, { issuer: impostor });
    const refused = await verify("mine", root.pem, forged.pem);
    expect(refused).toMatchObject({ status: 403, body: { code: "hub-ca-not-verified" } });
    // Signed by itself: anyone can do that.
    const alone = await testCertificate(`CN=${code}`);
    expect(await verify("mine", root.pem, alone.pem)).toMatchObject({ body: { code: "hub-ca-not-verified" } });
    expect(await stateOf("mine")).toBe("unverified");
  });

  it("refuses what isn't a valid CA, an outdated proof and a CA as proof", async () => {
    const code = await codeFor("unfit");
    const leaf = await testCertificate("CN=leaf");
    const byLeaf = await testCertificate(`CN=${code}`, { issuer: leaf });
    expect(await verify("unfit", leaf.pem, byLeaf.pem)).toMatchObject({
      status: 400,
      body: { code: "certificate-invalid" },
    });
    const past = { notBefore: new Date(Date.now() - 9e6), notAfter: new Date(Date.now() - 1e6) };
    const old = await testCertificate("CN=old", { ca: true, ...past });
    const byOld = await testCertificate(`CN=${code}`, { issuer: old });
    expect(await verify("unfit", old.pem, byOld.pem)).toMatchObject({ body: { code: "certificate-invalid" } });
    const outdated = await testCertificate(`CN=${code}`, { issuer: root, ...past });
    expect(await verify("unfit", root.pem, outdated.pem)).toMatchObject({ body: { code: "hub-ca-not-verified" } });
    const subCa = await testCertificate(`CN=${code}`, { issuer: root, ca: true });
    expect(await verify("unfit", root.pem, subCa.pem)).toMatchObject({ body: { code: "certificate-invalid" } });
  });

  it("takes no private key, and says nothing of it in its answer", async () => {
    const code = await codeFor("leaky");
    const verification = await testCertificate(`CN=${code}`, { issuer: root });
    for (const [ca, proof] of [
      [root.pem + root.keyPem, verification.pem],
      [root.pem, verification.keyPem + verification.pem],
    ] as const) {
      const refused = await verify("leaky", ca, proof);
      expect(refused).toMatchObject({ status: 400, body: { code: "input-invalid" } });
      expect(refused.body["detail"]).toMatch(/private key/);
      expect(JSON.stringify(refused.body)).not.toContain(root.keyPem.slice(40, 80));
    }
    const offered = await hub.api("POST", "/api/v1/cas", { name: "leaky-2", certificate: root.pem + root.keyPem });
    expect(offered).toMatchObject({ status: 400, body: { code: "input-invalid" } });
  });

  it("refuses malformed requests by type", async () => {
    expect(await hub.api("POST", "/api/v1/cas", { name: "../x" })).toMatchObject({ status: 400 });
    expect(await hub.api("POST", "/api/v1/cas", { name: "x", extra: 1 })).toMatchObject({ status: 400 });
    expect(await verify("nobody", root.pem, root.pem)).toMatchObject({ status: 404, body: { code: "not-found" } });
    expect(await verify("twice", "no PEM", root.pem)).toMatchObject({ status: 400, body: { code: "pem-invalid" } });
    expect(await verify("twice", root.pem + root.pem, root.pem)).toMatchObject({ status: 400 });
    const body = { ca: root.pem, verification: "x".repeat(30_000) };
    expect(await hub.api("POST", "/api/v1/cas/twice/verify", body)).toMatchObject({ status: 400 });
  });
});
