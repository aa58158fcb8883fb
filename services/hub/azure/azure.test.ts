import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { IotDpsClient } from "@azure/arm-deviceprovisioningservices";
import { IotHubClient } from "@azure/arm-iothub";
import iothub from "azure-iothub";
import dps from "azure-iot-provisioning-service";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { errorCodeOf, isCountersignError } from "../../../lib/domain/errors.ts";
import {
  AZURE,
  DPS_HOST,
  HUB_HOST,
  sasFields,
  startAzureRecorder,
  type AzureRecorder,
  type Recorded,
  azureSettings,
} from "../../../test/support/azure-recorder.ts";
import { tempDir } from "../../../test/support/index.ts";
import { testCertificate, type TestCertificate } from "../../../test/support/test-pki.ts";
import type { CaRegistry } from "../registry.ts";
import { dryRun, PLANNED_CODE } from "./dry-run.ts";
import { azureHub } from "./hub.ts";
import { azureHubSettings, resolveAzureHub } from "./settings.ts";

/**
 * The adapter beside the public SDKs, both against one recorder: what they send must be the same, field by field. And
 * what becomes of it when the services throttle, change under our hands, break off or lie.
 */

let azure: AzureRecorder;
let folder: string;
let root: TestCertificate;
let elsewhere: AzureRecorder;

beforeAll(async () => {
  azure = await startAzureRecorder();
  elsewhere = await startAzureRecorder();
  root = await testCertificate("CN=Factory-Y CA", { ca: true, pathLength: 1 });
  folder = tempDir("azure");
  const files = { "ca.pem": azure.ca.pem, secret: AZURE.secret, "hub.key": AZURE.hubKey, "dps.key": AZURE.dpsKey };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), `${text}\n`, { mode: 0o600 });
});
afterAll(async () => {
  await azure?.close();
  await elsewhere?.close();
});
beforeEach(() => {
  azure.requests.length = 0;
  azure.faults.length = 0;
  for (const map of [azure.certificates, azure.devices, azure.groups, azure.enrollments]) map.clear();
});

function settings(change: object = {}) {
  const parsed = azureHubSettings.parse({ ...azureSettings(azure.url), ...change });
  return resolveAzureHub(parsed, (name) => join(folder, name));
}
const hub = () => azureHub(settings());

/** What counts of a request; who sends it, and when, doesn't. */
function essence({ method, path, query, ifMatch, body }: Recorded) {
  return { method, path, query, ifMatch, body };
}
/** What was sent since the last look, without reads: those are each client's own affair. */
function writes(): ReturnType<typeof essence>[] {
  const all = azure.requests.splice(0);
  return all.filter(({ method, path }) => method !== "GET" && !path.endsWith("/token")).map(essence);
}

async function signed(ca: TestCertificate, code: string): Promise<TestCertificate> {
  return testCertificate(`CN=${code}`, { issuer: ca });
}

async function register(cas: CaRegistry, ca = root, name = "factory-y"): Promise<string> {
  const offered = { name, certificate: ca.der };
  const offer = await cas.offer(offered);
  if (offer === undefined) return "";
  await cas.verify(offered, offer, (await signed(ca, offer.code)).der);
  return offer.code;
}

/** Every run begins with the same entity tags. */
const untagged = (sent: ReturnType<typeof writes>, code: string) =>
  sent.map(({ ifMatch, body, ...rest }) => ({
    ...rest,
    ifMatch: ifMatch?.startsWith('"tag-') ? "TAG" : ifMatch,
    body: proofless(body, code),
  }));

/** The verification certificate is another each time; its name and issuer are what must be the same. */
function proofless(body: unknown, code: string): unknown {
  if (typeof body !== "object" || body === null || !("certificate" in body)) return body;
  const text = Buffer.from(String(body.certificate), "base64").toString();
  expect(text).toMatch(/^-----BEGIN CERTIFICATE-----\n/);
  expect(code).not.toBe("");
  return { certificate: "PEM of the verification certificate, base64" };
}

const credential = { getToken: async () => ({ token: "eyJ0.access-token_of.the-recorder", expiresOnTimestamp: 2e12 }) };
const pem64 = (ca: TestCertificate) => Buffer.from(ca.pem.trimEnd() + "\n").toString("base64");

const on = (method: string, end: string) => (request: { method: string; path: string }) =>
  request.method === method && request.path.endsWith(end);

describe("beside the public SDKs", () => {
  it("registers a CA at an IoT Hub as @azure/arm-iothub does", async () => {
    const sdk = new IotHubClient(credential, AZURE.subscription, {
      endpoint: azure.url,
      tlsOptions: { ca: azure.ca.pem },
    });
    const at = [AZURE.resourceGroup, AZURE.hub, "factory-y"] as const;
    const made = await sdk.certificates.createOrUpdate(...at, { properties: { certificate: pem64(root) } });
    const coded = await sdk.certificates.generateVerificationCode(...at, made.etag!);
    const code = coded.properties!.verificationCode!;
    const proof = pem64(await signed(root, code));
    const verified = await sdk.certificates.verify(...at, coded.etag!, { certificate: proof });
    expect(verified.properties!.isVerified).toBe(true);
    await sdk.certificates.delete(...at, verified.etag!);
    const theirs = untagged(writes(), code);

    const [cas] = hub().cas;
    const ours = await register(cas!);
    expect(await cas!.list()).toMatchObject([{ name: "factory-y", verified: true }]);
    await cas!.remove("factory-y");
    expect(untagged(writes(), ours)).toEqual(theirs);
    expect(theirs).toHaveLength(4);
  });

  it("registers a CA at a provisioning service as @azure/arm-deviceprovisioningservices does", async () => {
    const sdk = new IotDpsClient(credential, AZURE.subscription, {
      endpoint: azure.url,
      // By itself it asks for its newest one; the bodies are the same.
      apiVersion: "2022-02-05",
      tlsOptions: { ca: azure.ca.pem },
    });
    const { resourceGroup, dps: service } = AZURE;
    const bytes = (base64: string) => Buffer.from(base64, "base64");
    const made = await sdk.dpsCertificate.createOrUpdate(resourceGroup, service, "factory-y", {
      properties: { certificate: bytes(pem64(root)) },
    });
    const coded = await sdk.dpsCertificate.generateVerificationCode("factory-y", made.etag!, resourceGroup, service);
    const code = coded.properties!.verificationCode!;
    const proof = pem64(await signed(root, code));
    const verified = await sdk.dpsCertificate.verifyCertificate("factory-y", coded.etag!, resourceGroup, service, {
      certificate: proof,
    });
    await sdk.dpsCertificate.delete(resourceGroup, service, "factory-y", verified.etag!);
    const theirs = untagged(writes(), code);

    const [, cas] = hub().cas;
    const ours = await register(cas!);
    await cas!.remove("factory-y");
    expect(untagged(writes(), ours)).toEqual(theirs);
    expect(theirs).toHaveLength(4);
  });

  it("creates, disables, enables and removes devices as azure-iothub does", async () => {
    const line = `HostName=${HUB_HOST};SharedAccessKeyName=registryReadWrite;SharedAccessKey=${AZURE.hubKey}`;
    const sdk = iothub.Registry.fromConnectionString(line);
    (sdk as unknown as { _restApiClient: { setOptions(o: object): void } })._restApiClient.setOptions({
      http: { agent: azure.agent() },
    });
    const device = (status: "enabled" | "disabled") => ({
      deviceId: "dev-1-0001",
      status,
      authentication: { type: "certificateAuthority" as const },
    });
    await sdk.create(device("enabled"));
    await sdk.update(device("disabled"));
    await sdk.update(device("enabled"));
    await sdk.delete("dev-1-0001");
    const sdkAuth = sasFields(azure.requests[0]!.authorization);
    const theirs = writes();
    expect(theirs).toHaveLength(4);

    const { devices } = hub();
    expect(await devices.create("dev-1-0001")).toEqual({ deviceId: "dev-1-0001", state: "enabled" });
    expect((await devices.disable("dev-1-0001")).state).toBe("disabled");
    expect((await devices.enable("dev-1-0001")).state).toBe("enabled");
    expect(await devices.remove("dev-1-0001")).toBe(true);
    const ourAuth = sasFields(azure.requests[0]!.authorization);
    const ours = writes();
    // Where the SDK overwrites whatever is there, the adapter names what it has read.
    const conditional = ours.map((one, i) => (i === 1 || i === 2 ? { ...one, ifMatch: '"*"' } : one));
    expect(conditional).toEqual(theirs);
    expect(ours[1]!.ifMatch).toMatch(/^"[A-Za-z0-9+/=]+"$/);
    expect({ ...ourAuth, sr: HUB_HOST, sig: "", se: "" }).toEqual({ ...sdkAuth, sig: "", se: "" });
  });

  it("writes and deletes enrollment groups as azure-iot-provisioning-service does", async () => {
    const line = `HostName=${DPS_HOST};SharedAccessKeyName=provisioningserviceowner;SharedAccessKey=${AZURE.dpsKey}`;
    const sdk = dps.ProvisioningServiceClient.fromConnectionString(line);
    (sdk as unknown as { _restApiClient: { setOptions(o: object): void } })._restApiClient.setOptions({
      http: { agent: azure.agent() },
    });
    const group = {
      enrollmentGroupId: "lot-7",
      attestation: { type: "x509", x509: { caReferences: { primary: "factory-y" } } },
      provisioningStatus: "enabled",
    };
    const made = await sdk.createOrUpdateEnrollmentGroup(group as never);
    const { etag } = made.responseBody as unknown as { etag: string };
    await sdk.deleteEnrollmentGroup("lot-7", etag);
    const theirs = writes();

    const { enrollments } = hub();
    expect(await enrollments!.put("lot-7", ["factory-y"])).toEqual({
      name: "lot-7",
      cas: ["factory-y"],
      state: "enabled",
    });
    expect(await enrollments!.remove("lot-7")).toBe(true);
    const plain = (sent: typeof theirs) => sent.map((one) => ({ ...one, ifMatch: one.ifMatch && "TAG" }));
    expect(plain(writes())).toEqual(plain(theirs));
    expect(theirs).toHaveLength(2);
  });
});

describe("keeping out of provisioning", () => {
  const line = `HostName=${DPS_HOST};SharedAccessKeyName=provisioningserviceowner;SharedAccessKey=${AZURE.dpsKey}`;
  const client = () => {
    const sdk = dps.ProvisioningServiceClient.fromConnectionString(line);
    (sdk as unknown as { _restApiClient: { setOptions(o: object): void } })._restApiClient.setOptions({
      http: { agent: azure.agent() },
    });
    return sdk;
  };
  const plain = (sent: ReturnType<typeof writes>) => sent.map((one) => ({ ...one, ifMatch: one.ifMatch && "TAG" }));
  const etagOf = (made: { responseBody: unknown }) => (made.responseBody as { etag: string }).etag;

  it("disables a device's individual enrollment as azure-iot-provisioning-service does", async () => {
    const enrollment = {
      registrationId: "dev-1",
      attestation: { type: "x509", x509: { clientCertificates: { primary: { certificate: root.pem } } } },
      provisioningStatus: "disabled",
    };
    const made = await client().createOrUpdateIndividualEnrollment(enrollment as never);
    await client().deleteIndividualEnrollment("dev-1", etagOf(made));
    const theirs = plain(writes());

    const entry = hub().blocks!.device("dev-1", [root.der]);
    await entry.enable();
    expect(await entry.show()).toBeUndefined();
    await entry.disable();
    await entry.disable();
    expect(await entry.show()).toBe("disabled");
    await entry.remove();
    await entry.remove();
    expect(plain(writes())).toEqual(theirs);
    expect(theirs).toHaveLength(2);
  });

  it("disables a CA's group as it does, and has one that is there keep what it holds", async () => {
    const group = {
      enrollmentGroupId: "revoked",
      attestation: { type: "x509", x509: { signingCertificates: { primary: { certificate: root.pem } } } },
      provisioningStatus: "disabled",
    };
    const made = await client().createOrUpdateEnrollmentGroup(group as never);
    await client().deleteEnrollmentGroup("revoked", etagOf(made));
    const theirs = plain(writes());
    const entry = hub().blocks!.ca("revoked", root.der);
    await entry.disable();
    await entry.remove();
    expect(plain(writes())).toEqual(theirs);

    azure.enrollments.set("dev-2", { registrationId: "dev-2", deviceId: "other", etag: "x", more: 1 });
    const held = hub().blocks!.device("dev-2", [root.der]);
    for (let i = 0; i < 3; i++) azure.faults.push({ on: on("PUT", "/dev-2"), answer: { status: 412 } });
    await expect(held.disable()).rejects.toMatchObject({ code: "hub-busy" });
    await held.disable();
    expect(azure.enrollments.get("dev-2")).toMatchObject({
      deviceId: "other",
      more: 1,
      provisioningStatus: "disabled",
    });
    const taken = hub().blocks!.device("dev-3", [root.der]);
    for (let i = 0; i < 3; i++) azure.faults.push({ on: on("PUT", "/dev-3"), answer: { status: 409 } });
    await expect(taken.disable()).rejects.toMatchObject({ code: "state-conflict" });
    await held.enable();
    expect(azure.enrollments.get("dev-2")).toMatchObject({ provisioningStatus: "enabled" });
  });
});

describe("signing in", () => {
  it("takes one token for many requests, and proves itself by certificate", async () => {
    const files = ["principal.key", "principal.pem"].map((name) => join(folder, name));
    const subject = ["-subj", "/CN=countersign", "-days", "30", "-keyout", files[0]!, "-out", files[1]!];
    execFileSync("openssl", ["req", "-x509", "-newkey", "rsa:2048", "-nodes", ...subject], { stdio: "ignore" });
    azure.principalCertificate = readFileSync(files[1]!, "utf8");
    const before = azure.tokensGiven;
    const principal = { tenant: AZURE.tenant, clientId: AZURE.clientId };
    const byCertificate = azureHub(
      settings({ principal: { ...principal, certificateFile: "principal.pem", keyFile: "principal.key" } }),
    );
    for (const cas of byCertificate.cas) await register(cas);
    expect(azure.tokensGiven - before).toBe(1);
    expect([...azure.certificates.values()].every(({ properties }) => properties["isVerified"])).toBe(true);
    azure.principalCertificate = azure.ca.pem;
    const again = azureHub(
      settings({ principal: { ...principal, certificateFile: "principal.pem", keyFile: "principal.key" } }),
    );
    await expect(again.cas[0]!.list()).rejects.toMatchObject({ code: "unauthorized" });
  });

  it.each([
    [{ tenant: AZURE.tenant, clientId: AZURE.clientId }],
    [{ tenant: AZURE.tenant, clientId: AZURE.clientId, secretFile: "s", certificateFile: "c", keyFile: "k" }],
  ])("needs a secret or a certificate: %j", (principal) => {
    expect(() => settings({ principal })).toThrow(/secretFile/);
  });

  it("says when it is refused, without the secret", async () => {
    writeFileSync(join(folder, "secret"), "another-secret\n");
    const error: unknown = await hub()
      .cas[0]!.list()
      .catch((one: unknown) => one);
    writeFileSync(join(folder, "secret"), `${AZURE.secret}\n`);
    expect(errorCodeOf(error)).toBe("unauthorized");
    expect(String(error)).not.toContain("another-secret");
  });
});

const PATH = "/certificates/factory-y";

describe("when it goes wrong", () => {
  it("says how long a throttling service wants to be left alone", async () => {
    azure.faults.push({ on: on("PUT", PATH), answer: { status: 429, headers: { "retry-after": "17" } } });
    const error: unknown = await register(hub().cas[0]!).catch((one: unknown) => one);
    expect(isCountersignError(error) && [error.code, error.kind, error.details]).toEqual([
      "hub-busy",
      "unavailable",
      { retryAfterSeconds: 17 },
    ]);
    const inAnHour = new Date(Date.now() + 3_600_000).toUTCString();
    azure.faults.push({ on: on("PUT", PATH), answer: { status: 429, headers: { "retry-after": inAnHour } } });
    await expect(register(hub().cas[0]!)).rejects.toMatchObject({ details: { retryAfterSeconds: 300 } });
  });

  it.each([
    ["the upload", "PUT", PATH],
    ["the code", "POST", "/generateVerificationCode"],
    ["the proof", "POST", "/verify"],
  ])("finds what %s did when its answer was lost", async (_what, method, end) => {
    azure.faults.push({ on: on(method, end), after: true, answer: "cut" });
    const cas = hub().cas[0]!;
    await expect(register(cas)).rejects.toMatchObject({ code: "component-unreachable" });
    await register(cas);
    expect(await cas.list()).toMatchObject([{ verified: true }]);
    expect(azure.requests.filter(({ method: m }) => m === "PUT")).toHaveLength(1);
  });

  it.each([500, 502, 503])("tries again later after a %i", async (status) => {
    azure.faults.push({ on: on("POST", "/verify"), answer: { status, body: "<html>oops" } });
    await expect(register(hub().cas[0]!)).rejects.toMatchObject({ code: "component-unreachable", kind: "unavailable" });
    await register(hub().cas[0]!);
  });

  it("asks for a new code when somebody else did so in between", async () => {
    const cas = hub().cas[0]!;
    const offered = { name: "factory-y", certificate: root.der };
    const offer = await cas.offer(offered);
    await hub().cas[0]!.offer(offered);
    const proof = await signed(root, offer!.code);
    await expect(cas.verify(offered, offer!, proof.der)).rejects.toMatchObject({ code: "hub-busy" });
    await register(cas);
    expect(await cas.list()).toMatchObject([{ verified: true }]);
  });

  it("is content when another attempt has verified it meanwhile, and changes nothing", async () => {
    const offered = { name: "factory-y", certificate: root.der };
    const offer = await hub().cas[0]!.offer(offered);
    const proof = await signed(root, offer!.code);
    await hub().cas[0]!.verify(offered, offer!, proof.der);
    await hub().cas[0]!.verify(offered, offer!, proof.der);
    azure.requests.length = 0;
    expect(await hub().cas[0]!.offer(offered)).toBeUndefined();
    expect(writes()).toEqual([]);
  });

  it("never replaces another certificate of that name", async () => {
    await register(hub().cas[0]!);
    const other = await testCertificate("CN=Factory-Y CA", { ca: true });
    await expect(register(hub().cas[0]!, other)).rejects.toMatchObject({ code: "state-conflict" });
  });

  it("keeps what others wrote about a device, and lets them finish", async () => {
    const { devices } = hub();
    await devices.create("dev-1");
    const held = azure.devices.get("dev-1")!;
    azure.devices.set("dev-1", { ...held, capabilities: { iotEdge: true }, deviceScope: "ms-azure-iot-edge://x-1" });
    azure.faults.push({ on: on("PUT", "/devices/dev-1"), answer: { status: 412 } });
    expect((await devices.disable("dev-1")).state).toBe("disabled");
    expect(azure.devices.get("dev-1")).toMatchObject({
      status: "disabled",
      capabilities: { iotEdge: true },
      deviceScope: "ms-azure-iot-edge://x-1",
      authentication: { type: "certificateAuthority" },
    });
  });

  it("keeps a device out in the end, however often it is changed meanwhile", async () => {
    const { devices } = hub();
    await devices.create("dev-1");
    for (let i = 0; i < 2; i++) azure.faults.push({ on: on("PUT", "/devices/dev-1"), answer: { status: 412 } });
    expect((await devices.disable("dev-1")).state).toBe("disabled");
    expect(azure.requests.at(-1)?.ifMatch).toBe('"*"');
    for (let i = 0; i < 3; i++) azure.faults.push({ on: on("PUT", "/devices/dev-1"), answer: { status: 412 } });
    await expect(devices.enable("dev-1")).rejects.toMatchObject({ code: "hub-busy" });
  });

  it("keeps out a device that hasn't come yet", async () => {
    expect(await hub().devices.disable("dev-new")).toEqual({ deviceId: "dev-new", state: "disabled" });
    expect(azure.devices.get("dev-new")).toMatchObject({ status: "disabled" });
    await expect(hub().devices.enable("dev-none")).rejects.toMatchObject({ code: "not-found" });
  });

  it("creates a device once, and takes no other kind of device for it", async () => {
    azure.faults.push({ on: on("PUT", "/devices/dev-1"), after: true, answer: "cut" });
    await expect(hub().devices.create("dev-1")).rejects.toMatchObject({ code: "component-unreachable" });
    expect((await hub().devices.create("dev-1")).state).toBe("enabled");
    azure.devices.set("dev-sas", {
      deviceId: "dev-sas",
      status: "enabled",
      authentication: { type: "sas" },
      etag: "x",
    });
    await expect(hub().devices.create("dev-sas")).rejects.toMatchObject({ code: "already-exists" });
  });

  it("has a group take the next CA beside the last one, through a conflict", async () => {
    const { enrollments } = hub();
    await enrollments!.put("lot-7", ["factory-y"]);
    azure.faults.push({ on: on("PUT", "/enrollmentGroups/lot-7"), answer: { status: 412 } });
    await enrollments!.put("lot-7", ["factory-y-2", "factory-y"]);
    expect(await enrollments!.show("lot-7")).toMatchObject({ cas: ["factory-y-2", "factory-y"] });
    azure.requests.length = 0;
    await enrollments!.put("lot-7", ["factory-y-2", "factory-y"]);
    expect(writes()).toEqual([]);
    expect((await enrollments!.setState("lot-7", "disabled")).state).toBe("disabled");
    await expect(enrollments!.setState("none", "disabled")).rejects.toMatchObject({ code: "not-found" });
  });

  it("takes its token to no other host", async () => {
    for (const status of [301, 302, 307, 308]) {
      azure.faults.push({
        on: on("GET", "/certificates"),
        answer: { status, headers: { location: `${elsewhere.url}/x` } },
      });
      await expect(hub().cas[0]!.list()).rejects.toMatchObject({ code: "hub-refused" });
    }
    expect(elsewhere.requests).toEqual([]);
  });

  it("reads no answer without end", async () => {
    azure.faults.push({ on: on("GET", PATH), answer: "flood" });
    await expect(hub().cas[0]!.offer({ name: "factory-y", certificate: root.der })).rejects.toMatchObject({
      code: "component-unreachable",
    });
  });

  it.each([
    ["{", "component-unreachable"],
    ["[]", "component-unreachable"],
    ["null", "component-unreachable"],
    ['{"properties":null}', "component-unreachable"],
    ['{"properties":{"isVerified":"true","thumbprint":"00"}}', "component-unreachable"],
    // No certificate at all, and said to be verified: it isn't known to be ours.
    ['{"properties":{"isVerified":true}}', "state-conflict"],
    ['{"properties":{"isVerified":true,"certificate":"AAAA"}}', "state-conflict"],
  ])("takes no answer for what it isn't: %s", async (body, code) => {
    azure.faults.push({ on: on("GET", PATH), answer: { status: 200, body } });
    await expect(hub().cas[0]!.offer({ name: "factory-y", certificate: root.der })).rejects.toMatchObject({ code });
  });

  it.each(["{}", '{"deviceId":1,"status":"enabled"}', '{"deviceId":"dev-1","status":"perhaps"}', "[1]", "7"])(
    "takes no device for what it isn't: %s",
    async (body) => {
      azure.faults.push({ on: on("GET", "/devices/dev-1"), answer: { status: 200, body } });
      await expect(hub().devices.show("dev-1")).rejects.toMatchObject({ code: "component-unreachable" });
    },
  );

  it("shows no control characters of a service's answer", async () => {
    const body = JSON.stringify({ error: { message: "\u001b[2Jgone" } });
    azure.faults.push({ on: on("GET", "/certificates"), answer: { status: 400, body } });
    const error: unknown = await hub()
      .cas[0]!.list()
      .catch((one: unknown) => one);
    expect(String(error)).toContain("gone");
    expect(String(error)).not.toContain("\u001b");
  });
});

describe("a dry run", () => {
  it("names the requests that a registration makes, in order, and sends none", async () => {
    const plan = dryRun();
    const planned = azureHub(settings({ management: "https://management.azure.com" }), plan.make);
    for (const cas of planned.cas) expect(await register(cas)).toBe(PLANNED_CODE);
    await planned.devices.disable("dev-1");
    await planned.enrollments!.put("lot-7", ["factory-y"]);
    expect(azure.requests).toEqual([]);
    const sent = plan.requests
      .filter(({ method }) => method !== "GET")
      .map(({ method, url }) => `${method} ${new URL(url).pathname}`);
    const group = `/subscriptions/${AZURE.subscription}/resourceGroups/${AZURE.resourceGroup}/providers/Microsoft.Devices`;
    const three = (resource: string) => [
      `PUT ${group}/${resource}${PATH}`,
      `POST ${group}/${resource}${PATH}/generateVerificationCode`,
      `POST ${group}/${resource}${PATH}/verify`,
    ];
    expect(sent).toEqual([
      ...three(`IotHubs/${AZURE.hub}`),
      ...three(`provisioningServices/${AZURE.dps}`),
      "PUT /devices/dev-1",
      "PUT /enrollmentGroups/lot-7",
    ]);
    const text = JSON.stringify(plan.requests);
    for (const secret of [AZURE.secret, AZURE.hubKey, AZURE.dpsKey]) expect(text).not.toContain(secret);
  });
});
