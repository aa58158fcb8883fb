import { request } from "node:https";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { startTestHub, type TestHub } from "../../test/support/hub-process.ts";
import { testCertificate } from "../../test/support/test-pki.ts";
import { html } from "./html.ts";

let hub: TestHub;

beforeAll(async () => {
  hub = await startTestHub();
});
afterAll(async () => hub?.stop());

interface Answer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  text: string;
}

/** As a browser with the operator's certificate asks; `form` is posted. */
function browse(
  path: string,
  form?: Record<string, string> | string,
  headers: Record<string, string> = {},
): Promise<Answer> {
  const read = (name: string): string => readFileSync(join(hub.home, "hub", name), "utf8");
  return new Promise((resolve, reject) => {
    const origin = `https://127.0.0.1:${hub.apiPort}`;
    const posted = { origin, "content-type": "application/x-www-form-urlencoded", ...headers };
    const call = request(
      {
        host: "127.0.0.1",
        port: hub.apiPort,
        method: form === undefined ? "GET" : "POST",
        path,
        agent: false,
        ca: hub.infraCa.pem,
        cert: read("operator.pem"),
        key: read("operator.key"),
        headers: form === undefined ? {} : posted,
      },
      (response) => {
        let text = "";
        response.setEncoding("utf8").on("data", (part: string) => (text += part));
        response.on("end", () => resolve({ status: response.statusCode ?? 0, headers: response.headers, text }));
      },
    );
    call.on("error", reject).end(typeof form === "object" ? new URLSearchParams(form).toString() : form);
  });
}

describe("the hub's pages", () => {
  it("take a CA from nothing to verified, as the tutorials click", async () => {
    const ca = await testCertificate("CN=tutorial root", { ca: true });
    const added = await browse("/cas", { name: "tutorial", certificate: ca.pem });
    expect(added).toMatchObject({ status: 303, headers: { location: "/cas/tutorial" } });
    const shown = await browse("/cas/tutorial");
    expect(shown.text).toContain("Unverified");
    const code = /<code id="code">([0-9a-f]{48})<\/code>/.exec(shown.text)?.[1] ?? "";
    const wrong = await testCertificate("CN=something else", { issuer: ca });
    const no = await browse("/cas/tutorial/verify", { ca: ca.pem, verification: wrong.pem });
    expect(no.status).toBe(403);
    expect(no.text).toMatch(/role="alert">the verification certificate&#39;s CN is not the code/);
    const stranger = await testCertificate("CN=tutorial root", { ca: true });
    const forged = await testCertificate(`CN=${code}`, { issuer: stranger });
    expect((await browse("/cas/tutorial/verify", { ca: ca.pem, verification: forged.pem })).status).toBe(403);
    const proof = await testCertificate(`CN=${code}`, { issuer: ca });
    expect((await browse("/cas/tutorial/verify", { ca: ca.pem, verification: proof.pem })).status).toBe(303);
    expect((await browse("/cas/tutorial")).text).toContain("Verified");
    expect((await browse("/")).text).toContain("tutorial");
    expect((await browse("/cas/tutorial/enrolment", { enrolment: "registered" })).status).toBe(303);
    expect((await browse("/cas/tutorial/disable", {})).status).toBe(303);
    expect((await hub.api("GET", "/api/v1/cas/tutorial")).body).toMatchObject({
      enrolment: "registered",
      disabledAt: expect.any(String),
    });
    expect((await browse("/cas/tutorial/remove", {})).status).toBe(303);
    expect((await browse("/cas/tutorial")).status).toBe(404);
  });

  it("refuse a file that holds a private key, and say why", async () => {
    const ca = await testCertificate("CN=leaky", { ca: true });
    const answer = await browse("/cas", { name: "leaky", certificate: ca.pem + ca.keyPem });
    expect(answer.status).toBe(400);
    expect(answer.text).toMatch(/role="alert">[^<]*private key/);
    expect(answer.text).not.toContain("BEGIN PRIVATE");
  });

  it("create, disable, enable and remove a device", async () => {
    expect((await browse("/devices", { id: "dev-1" })).status).toBe(303);
    expect((await browse("/devices", { id: "dev-1" })).status).toBe(409);
    expect((await browse("/devices/dev-1/disable", {})).status).toBe(303);
    expect((await browse("/devices/dev-1")).text).toContain("disabled");
    expect((await browse("/devices/dev-1/enable", {})).status).toBe(303);
    expect((await browse("/devices")).text).toContain("dev-1");
    expect((await browse("/devices/dev-1/remove", {})).status).toBe(303);
    expect((await browse("/devices/dev-1")).status).toBe(404);
  });

  it("take no form of another site's, though the browser shows its certificate, and nothing twice", async () => {
    for (const origin of ["https://evil.example", "null", ""]) {
      expect((await browse("/devices", { id: "dev-2" }, { origin })).status).toBe(401);
    }
    expect((await hub.api("GET", "/api/v1/devices/dev-2")).status).toBe(404);
    expect((await browse("/devices", { id: "<script>" })).status).toBe(400);
  });

  it("hold no script, say so to the browser, label every field", async () => {
    for (const path of ["/", "/devices"]) {
      const page = await browse(path);
      expect(page.headers["content-security-policy"]).toMatch(
        /^default-src 'none'; style-src 'self'; form-action 'self'/,
      );
      expect(page.text).not.toMatch(/<script|style=|onclick/i);
      for (const [, id] of page.text.matchAll(/<(?:input|select) id="([^"]+)"/g)) {
        expect(page.text).toContain(`<label for="${id}">`);
      }
    }
  });

  it("take forms with files, and refuse what is none", async () => {
    const boundary = { "content-type": "multipart/form-data; boundary=x" };
    const part = (name: string, value: string): string =>
      `--x\r\nContent-Disposition: form-data; name="${name}"\r\n\r\n${value}\r\n`;
    expect((await browse("/devices", `${part("id", "form-1")}--x--\r\n`, boundary)).status).toBe(303);
    for (const [form, headers] of [
      [`${part("id", "form-2")}${part("id", "form-3")}--x--\r\n`, boundary],
      [`${part("id", "form-2")}`, boundary],
      ["", boundary],
      [`${part("id", "form-2")}--x--\r\n`, { "content-type": "multipart/form-data" }],
      [`${part("id", "form-2")}${part("other", "y")}--x--\r\n`, boundary],
    ] as const) {
      expect((await browse("/devices", form, headers)).status).toBe(400);
    }
    const long = `${part("id", "x".repeat(300_000))}--x--\r\n`;
    expect((await browse("/devices", long, boundary)).status).toBe(413);
    expect((await hub.api("GET", "/api/v1/devices/form-2")).status).toBe(404);
  });

  it("are for operators only", async () => {
    const bare = await new Promise<number>((resolve, reject) =>
      request({ host: "127.0.0.1", port: hub.apiPort, path: "/", ca: hub.infraCa.pem, agent: false }, (response) => {
        response.resume();
        resolve(response.statusCode ?? 0);
      })
        .on("error", reject)
        .end(),
    );
    expect(bare).toBe(401);
  });

  it("escape what they show", () => {
    expect(html`<p title="${`"><b>'&`}">${["<i>", html`<u>ok</u>`, null]}</p>`.text).toBe(
      '<p title="&quot;&gt;&lt;b&gt;&#39;&amp;">&lt;i&gt;<u>ok</u></p>',
    );
  });
});
