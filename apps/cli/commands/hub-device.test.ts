import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { applyPatches, bytesReader, erasedPartition, firmwareFormat } from "../../../lib/firmware/index.ts";
import { startTestHub, type TestHub } from "../../../test/support/hub-process.ts";
import { inProcess } from "../../../test/support/in-process.ts";
import { tempDir, tool } from "../../../test/support/index.ts";
import { countersignInTerminal } from "../../../test/support/terminal.ts";
import { CLIENT_AUTH, testCertificate, type TestCertificate } from "../../../test/support/test-pki.ts";
import { registerDevice } from "./device.ts";
import { registerHub } from "./hub.ts";

let hub: TestHub;
let root: TestCertificate;
const dir = (): string => folder;
let folder: string;

beforeAll(async () => {
  hub = await startTestHub();
  folder = tempDir("cli");
  process.env["COUNTERSIGN_HOME"] = hub.home;
  root = await testCertificate("CN=root", { ca: true });
  writeFileSync(join(folder, "root.pem"), root.pem);
  writeFileSync(join(folder, "hub-ca.pem"), hub.infraCa.pem);
});

afterAll(() => hub?.stop());

const countersign = inProcess(registerHub, registerDevice);

describe("from the command line", () => {
  it("a CA is registered, and a device makes its key, connects from its image and is seen", async () => {
    const code = await countersign("hub", "ca", "code", "company-x");
    expect(await countersign("hub", "ca", "add", "company-x", "--certificate", join(dir(), "root.pem"))).toContain(
      code,
    );
    const verification = await testCertificate(`CN=${code}`, { issuer: root });
    writeFileSync(join(dir(), "verification.pem"), verification.pem);
    const proof = ["--ca", join(dir(), "root.pem"), "--certificate", join(dir(), "verification.pem")];
    expect(await countersign("hub", "ca", "verify", "company-x", ...proof)).toMatch(
      /company-x is verified: [0-9a-f]{64}/,
    );
    expect(JSON.parse(await countersign("hub", "ca", "list", "--json"))).toMatchObject([
      { name: "company-x", state: "verified" },
    ]);

    const token = ["--token-dir", join(dir(), "tokens"), "--id", "dev-cli"];
    const made = JSON.parse(await countersign("device", "keygen", ...token, "--json"));
    expect(made).toMatchObject({ deviceId: "dev-cli", created: true });
    expect(JSON.parse(await countersign("device", "keygen", ...token, "--json"))).toEqual({ ...made, created: false });
    const csrFile = join(dir(), "csr.pem");
    await countersign("device", "csr", ...token, "--out", csrFile);
    execFileSync(tool("openssl"), ["req", "-in", csrFile, "-noout", "-verify"], { stdio: "pipe" });

    const csr = readFileSync(csrFile, "utf8");
    const factory = await testCertificate("CN=factory", { ca: true, issuer: root });
    const leaf = await testCertificate("CN=dev-cli", { issuer: factory, eku: [CLIENT_AUTH], csr });
    const original = erasedPartition();
    const template = await firmwareFormat("esp-secure-cert").open(bytesReader(original), {});
    const { patches } = await template.inject([leaf.der, factory.der]);
    writeFileSync(join(dir(), "image.bin"), applyPatches(original, patches));

    const to = ["--hub", hub.address, "--ca", join(dir(), "hub-ca.pem"), "--messages", "2", "--json"];
    const image = ["--image", join(dir(), "image.bin"), "--format", "esp-secure-cert"];
    expect(JSON.parse(await countersign("device", "connect", ...token, ...image, ...to))).toMatchObject({
      acknowledged: 2,
    });

    const live = ["--hub", hub.address, "--ca", join(dir(), "hub-ca.pem"), "--messages", "3", "--interval", "400"];
    const { code: exit, lines } = await countersignInTerminal(["device", "connect", ...token, ...image, ...live]);
    const texts = lines.map(({ text }) => text);
    expect([exit, texts.length]).toEqual([0, 4]);
    const shownLive = /^\d\d:\d\d:\d\d +(\d+) +\d\d\.\d °C +\d\d\.\d % {2}stored in \d+ ms$/;
    const ids = texts.slice(0, 3).map((text) => Number(shownLive.exec(text)?.[1]));
    expect(ids[0]).toBeGreaterThanOrEqual(0);
    expect(ids).toEqual([ids[0], ids[0]! + 1, ids[0]! + 2]);
    expect(texts[3]).toMatch(/^dev-cli: connected in \d+ ms, 3 messages acknowledged$/);
    // As they are stored, not at the end.
    expect(lines[2]!.ms).toBeGreaterThan(500);

    const shown = JSON.parse(await countersign("hub", "device", "show", "dev-cli", "--json"));
    expect(shown).toMatchObject({ deviceId: "dev-cli", caName: "company-x", telemetry: 5 });
    expect(await countersign("hub", "device", "list")).toMatch(/dev-cli\s+enabled\s+company-x/);
    await countersign("hub", "device", "disable", "dev-cli");
    await expect(countersign("device", "connect", ...token, ...image, ...to)).rejects.toMatchObject({
      code: "hub-refused",
    });
    writeFileSync(join(dir(), "leaf.pem"), leaf.pem);
    await countersign("hub", "device", "enable", "dev-cli");
    const alone = countersign("device", "connect", ...token, "--chain", join(dir(), "leaf.pem"), ...to);
    await expect(alone).rejects.toMatchObject({ code: "hub-refused" });
    const many = ["hub", "device", "disable", "dev-cli", "dev-nobody", "--json"];
    expect(JSON.parse(await countersign(...many))).toEqual({ state: "disabled", set: 1, unknown: ["dev-nobody"] });
    expect(process.exitCode).toBe(1);
    process.exitCode = 0;
    await countersign("hub", "device", "remove", "dev-cli");
    await expect(countersign("hub", "device", "show", "dev-cli")).rejects.toMatchObject({ code: "not-found" });
  }, 90_000);

  it("says what is missing or wrong", async () => {
    const nowhere = ["--token-dir", join(dir(), "nowhere"), "--id", "dev-x"];
    await expect(countersign("device", "csr", ...nowhere)).rejects.toMatchObject({ code: "component-missing" });
    const token = ["--token-dir", join(dir(), "tokens")];
    await expect(countersign("device", "csr", ...token, "--id", "dev-x")).rejects.toMatchObject({
      code: "hsm-token-missing",
    });
    const to = ["--hub", hub.address, "--ca", join(dir(), "hub-ca.pem")];
    const none = countersign("device", "connect", ...token, "--id", "dev-cli", ...to);
    await expect(none).rejects.toMatchObject({ code: "usage" });
    const closed = ["--hub", "localhost:1", "--ca", join(dir(), "hub-ca.pem"), "--chain", join(dir(), "leaf.pem")];
    const away = countersign("device", "connect", ...token, "--id", "dev-cli", ...closed);
    await expect(away).rejects.toMatchObject({ code: "component-unreachable" });
    process.env["COUNTERSIGN_HOME"] = join(dir(), "no-home");
    await expect(countersign("hub", "ca", "list")).rejects.toMatchObject({ code: "component-missing" });
    process.env["COUNTERSIGN_HOME"] = hub.home;
  });
});

describe("who is kept out, from the command line", () => {
  const json = async (...argv: string[]): Promise<unknown> => JSON.parse(await countersign(...argv, "--json"));

  it("CAs, certificates and groups", async () => {
    const pem = join(dir(), "root.pem");
    await countersign("hub", "ca", "add", "kept", "--certificate", pem).catch(() => undefined);
    const blocked = await countersign("hub", "block", "add", pem, "--reason", "key lost");
    const sha256 = /[0-9a-f]{64}/.exec(blocked)?.[0] ?? "";
    expect(await json("hub", "block", "list")).toMatchObject([{ kind: "key", sha256, reason: "key lost" }]);
    // The same by the site whose CA it is: one line each, and one command for both.
    const body = { certificate: readFileSync(pem, "utf8"), reason: "revoked by its issuer: keyCompromise" };
    expect((await hub.api("POST", "/api/v1/blocks?source=revocation", body)).status).toBe(201);
    const sources = (await json("hub", "block", "list")) as { source: string }[];
    expect(sources.map(({ source }) => source).toSorted()).toEqual(["operator", "revocation"]);
    const text = await countersign("hub", "block", "list");
    expect(text).toMatch(/^KIND +SHA-256 +NAME +SOURCE +BY +REASON/m);
    expect(text).toMatch(/ operator +alice +key lost/);
    expect(text).toMatch(/ site +alice +revoked by its issuer/);
    await countersign("hub", "block", "remove", sha256);
    expect(await json("hub", "block", "list")).toEqual([]);
    expect(await json("hub", "groups", "set", "g", "under z", "--scopes", "twin")).toMatchObject({ scopes: ["twin"] });
    expect(await json("hub", "groups", "disable", "g")).toMatchObject({ disabledAt: expect.any(String) });
    expect(await countersign("hub", "groups")).toMatch(/g +disabled +- +twin +under z/);
    expect(await json("hub", "groups", "ask", "under nobody")).toEqual([]);
    await countersign("hub", "groups", "remove", "g");
    expect(await json("hub", "groups")).toEqual([]);
    await countersign("hub", "crl", "add", "root", "--issuer", pem, "--url", "http://127.0.0.1:9/x.crl");
    expect(await json("hub", "crl", "list")).toMatchObject([{ name: "root", thisUpdate: null }]);
    await countersign("hub", "crl", "remove", "root");
    await expect(countersign("hub", "device", "create", "d-1", "--auth-method", "sas")).rejects.toMatchObject({
      code: "usage",
    });
    expect(await json("hub", "device", "create", "d-1", "--auth-method", "x509_ca")).toMatchObject({ deviceId: "d-1" });
  });
});
