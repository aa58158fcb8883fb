import { execFileSync, spawn } from "node:child_process";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { connectAzure } from "../../../test/support/azure-node.ts";
import { registerTestCa, startTestHub, type TestHub } from "../../../test/support/hub-process.ts";
import { inProcess } from "../../../test/support/in-process.ts";
import { PROJECT_ROOT, pythonTool, tempDir, tool } from "../../../test/support/index.ts";
import { CLIENT_AUTH, testCertificate, type TestCertificate } from "../../../test/support/test-pki.ts";
import { registerDevice } from "./device.ts";

const PASSWORD = "päss wörd 1";
const countersign = inProcess(registerDevice);
const mqtt = createRequire(createRequire(import.meta.url).resolve("azure-iot-mqtt-base"))("mqtt");

let hub: TestHub;
let root: TestCertificate;
let factory: TestCertificate;
let at: (name: string) => string;
let pfx: string[];

beforeAll(async () => {
  const dir = tempDir("pfx");
  at = (name) => join(dir, name);
  hub = await startTestHub();
  root = await testCertificate("CN=root", { ca: true });
  factory = await testCertificate("CN=factory", { ca: true, issuer: root });
  await registerTestCa(hub, "company-x", root);
  writeFileSync(at("password"), `${PASSWORD}\n`, { mode: 0o600 });
  await countersign("device", "keygen", "--software-key", at("dev.key"), "--id", "dev-pfx");
  await countersign("device", "csr", "--software-key", at("dev.key"), "--id", "dev-pfx", "--out", at("dev.csr"));
  const csr = readFileSync(at("dev.csr"), "utf8");
  const leaf = await testCertificate("CN=dev-pfx", { issuer: factory, eku: [CLIENT_AUTH], csr });
  writeFileSync(at("chain.pem"), leaf.pem + factory.pem);
  const from = ["device", "export-pfx", "--software-key", at("dev.key"), "--chain", at("chain.pem")];
  pfx = [...from, "--password-file", at("password"), "--out"];
  await countersign(...pfx, at("dev.pfx"));
});
afterAll(() => hub?.stop());

const openssl = (...args: string[]): string =>
  execFileSync(tool("openssl"), args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });

describe("a test-only software key", () => {
  it("is nobody else's to read, says what it is, and is never overwritten", async () => {
    expect(statSync(at("dev.key")).mode & 0o777).toBe(0o600);
    expect(readFileSync(at("dev.key"), "utf8")).toMatch(/^Test-only software key .* Never for production/);
    openssl("pkey", "-in", at("dev.key"), "-noout", "-check");
    openssl("req", "-in", at("dev.csr"), "-noout", "-verify");
    const again = countersign("device", "keygen", "--software-key", at("dev.key"), "--id", "dev-pfx");
    await expect(again).rejects.toMatchObject({ code: "already-exists" });
    const both = ["--software-key", at("x.key"), "--token-dir", at("tokens")];
    for (const place of [[], both]) {
      await expect(countersign("device", "keygen", "--id", "d", ...place)).rejects.toMatchObject({ code: "usage" });
    }
  });
});

describe("a .pfx", () => {
  it("is PBES2 with AES-256 and HMAC-SHA-256 to openssl, which finds key and chain in it", () => {
    const pass = `file:${at("password")}`;
    const info = execFileSync(
      "/bin/sh",
      ["-c", `"$1" pkcs12 -in "$2" -passin "$3" -info -noout 2>&1`, "sh", tool("openssl"), at("dev.pfx"), pass],
      { encoding: "utf8" },
    );
    expect(info).toMatch(/MAC: sha256, Iteration 600000/);
    const shown = info.match(/PBES2, PBKDF2, AES-256-CBC, Iteration 600000, PRF hmacWithSHA256/g);
    expect(shown).toHaveLength(2);
    const certificates = openssl("pkcs12", "-in", at("dev.pfx"), "-passin", pass, "-nokeys");
    expect([...certificates.matchAll(/subject=CN ?= ?(\S+)/g)].map(([, cn]) => cn)).toEqual(["dev-pfx", "factory"]);
    writeFileSync(at("wrong"), "another password", { mode: 0o600 });
    expect(() => openssl("pkcs12", "-in", at("dev.pfx"), "-passin", `file:${at("wrong")}`, "-nokeys")).toThrow(/mac/i);
  });

  it("is read by pyca/cryptography with the same key", () => {
    const script = `
import sys
from cryptography.hazmat.primitives.serialization import pkcs12, Encoding, PublicFormat
key, leaf, above = pkcs12.load_key_and_certificates(open(sys.argv[1], "rb").read(), sys.argv[2].encode())
assert key.public_key() == leaf.public_key()
print(leaf.subject.rfc4514_string(), [c.subject.rfc4514_string() for c in above])`;
    const said = execFileSync(pythonTool("python"), ["-c", script, at("dev.pfx"), PASSWORD], { encoding: "utf8" });
    expect(said.trim()).toBe("CN=dev-pfx ['CN=factory']");
  });

  it("connects unmodified clients: as it is over MQTT, and as openssl takes it apart for Azure's SDK", async () => {
    const [host, port] = hub.address.split(":");
    const client = mqtt.connect({
      ...{ host, port: Number(port), protocol: "mqtts", protocolVersion: 4, reconnectPeriod: 0, clean: false },
      ...{ clientId: "dev-pfx", username: `${host}/dev-pfx/?api-version=2021-04-12`, ca: hub.infraCa.pem },
      ...{ pfx: readFileSync(at("dev.pfx")), passphrase: PASSWORD },
    });
    await new Promise((resolve, reject) => client.once("connect", resolve).once("error", reject));
    await new Promise((resolve) => client.end(true, {}, resolve));
    const pem = openssl("pkcs12", "-in", at("dev.pfx"), "-passin", `file:${at("password")}`, "-nodes");
    const key = /-----BEGIN PRIVATE KEY-----[^-]+-----END PRIVATE KEY-----/.exec(pem)![0];
    const chain = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g)!.join("\n");
    const device = await connectAzure(hub, { id: "dev-pfx", chain, key });
    await device.close();
  });

  it("is refused for another key, a CA, a short password, one that others may read, and over a file", async () => {
    const to = (name: string): string[] => [...pfx, at(name)];
    await expect(countersign(...to("dev.pfx"))).rejects.toMatchObject({ code: "input-invalid" });
    await countersign("device", "keygen", "--software-key", at("other.key"), "--id", "dev-2");
    const swapped = to("a.pfx").map((one) => (one === at("dev.key") ? at("other.key") : one));
    await expect(countersign(...swapped)).rejects.toMatchObject({ code: "certificate-invalid" });
    writeFileSync(at("ca.pem"), factory.pem);
    const ofCa = to("a.pfx").map((one) => (one === at("chain.pem") ? at("ca.pem") : one));
    await expect(countersign(...ofCa)).rejects.toMatchObject({ code: "certificate-invalid" });
    for (const [text, mode] of [
      ["short", 0o600],
      ["long enough", 0o644],
    ] as const) {
      const file = at(`password-${mode}`);
      writeFileSync(file, text, { mode });
      const args = to("a.pfx").map((one) => (one === at("password") ? file : one));
      await expect(countersign(...args)).rejects.toMatchObject({ code: "input-invalid" });
    }
  });

  it("asks for its password on a terminal, and doesn't show it", async () => {
    const args = pfx.filter((one) => one !== "--password-file" && one !== at("password"));
    const command = [process.execPath, join(PROJECT_ROOT, "apps/cli/main.ts"), ...args, at("asked.pfx")];
    const child = spawn(tool("script"), ["-qec", command.map((one) => `'${one}'`).join(" "), "/dev/null"]);
    let said = "";
    const answers = [/Password for [^\n]*: $/, /Again: $/];
    child.stdout.on("data", (part: Buffer) => {
      said += part.toString();
      if (answers[0]?.test(said) !== true) return;
      answers.shift();
      child.stdin.write(`${PASSWORD}\r`);
    });
    const code = await new Promise((resolve) => child.once("close", resolve));
    expect({ code, said }).toMatchObject({ code: 0, said: expect.stringContaining("test-only key of dev-pfx") });
    expect(said).not.toContain("wörd");
    openssl("pkcs12", "-in", at("asked.pfx"), "-passin", `file:${at("password")}`, "-nokeys");
  }, 60_000);
});
