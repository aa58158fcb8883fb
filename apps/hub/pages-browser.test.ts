import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { Browser, BrowserContext, Page } from "playwright-core";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { openBrowser, visit, type Visit } from "../../test/support/chromium.ts";
import { startTestHub, type TestHub } from "../../test/support/hub-process.ts";
import { tempDir } from "../../test/support/index.ts";
import { testCertificate, type TestCertificate } from "../../test/support/test-pki.ts";

let hub: TestHub;
let browser: Browser;
let files: string;
let origin: string;
let context: BrowserContext;
let page: Page;
let complaints: Visit["complaints"];

beforeAll(async () => {
  files = tempDir("browser");
  [hub, browser] = await Promise.all([startTestHub(), openBrowser()]);
  origin = `https://127.0.0.1:${hub.apiPort}`;
});
afterAll(async () => {
  await browser?.close();
  await hub?.stop();
});
beforeEach(async () => {
  const at = (name: string): string => join(hub.home, "hub", name);
  context = await browser.newContext({
    baseURL: origin,
    clientCertificates: [{ origin, certPath: at("operator.pem"), keyPath: at("operator.key") }],
    ignoreHTTPSErrors: true,
    // What works is forms, and nothing else.
    javaScriptEnabled: false,
  });
  ({ page, complaints } = await visit(context));
});
afterEach(async () => {
  const shots = tempDir("screenshots");
  mkdirSync(shots, { recursive: true });
  await page.screenshot({ path: join(shots, "last.png"), fullPage: true });
  await context.close();
});

function file(name: string, content: string | Uint8Array): string {
  writeFileSync(join(files, name), content);
  return join(files, name);
}

const click = (name: string): Promise<void> => page.getByRole("button", { name, exact: true }).click();
const heading = (): Promise<string> => page.getByRole("heading", { level: 1 }).innerText();
const alert = (): Promise<string> => page.getByRole("alert").innerText();
/** What a description list says under this term. */
const said = (term: string): Promise<string> =>
  page
    .locator("dt", { hasText: new RegExp(`^${term}$`) })
    .locator("xpath=following-sibling::dd[1]")
    .innerText();

async function proofOf(ca: TestCertificate, code: string): Promise<TestCertificate> {
  return testCertificate(`CN=${code}`, { issuer: ca });
}

async function addCa(name: string, certificate?: string): Promise<void> {
  await page.goto("/");
  await page.getByLabel("Name").fill(name);
  if (certificate !== undefined) await page.getByLabel(/^Certificate file/).setInputFiles(certificate);
  await click("Add and get a verification code");
}

async function handIn(ca: string, verification: string): Promise<void> {
  await page.getByLabel(/^The CA's certificate file/).setInputFiles(ca);
  await page.getByLabel(/^The verification certificate file/).setInputFiles(verification);
  await click("Verify");
}

describe("the hub's pages in a browser", () => {
  it("register a CA: upload, code, verification, enrolment, disable, remove; each wrong input with its reason", async () => {
    const ca = await testCertificate("CN=tutorial root", { ca: true });
    const caFile = file("ca.pem", ca.pem);
    await addCa("tutorial", file("leaky.pem", ca.pem + ca.keyPem));
    expect(await alert()).toContain("private key");
    await addCa("no name!", caFile);
    expect(await alert()).toContain("1 to 64 of A-Z a-z 0-9 . _ -");

    await addCa("tutorial", caFile);
    expect([await heading(), await said("State")]).toEqual(["CA tutorial", "Unverified"]);
    const code = await page.locator("#code").innerText();
    expect(code).toMatch(/^[0-9a-f]{48}$/);
    await handIn(caFile, file("wrong.pem", (await testCertificate("CN=something else", { issuer: ca })).pem));
    expect(await alert()).toBe("the verification certificate's CN is not the code given for tutorial");
    const stranger = await testCertificate("CN=tutorial root", { ca: true });
    await handIn(caFile, file("forged.pem", (await proofOf(stranger, code)).pem));
    expect(await alert()).toContain("not one of this CA");
    expect(await said("State")).toBe("Unverified");
    // Binary, as many CAs hand certificates out.
    await handIn(file("ca.cer", ca.der), file("proof.cer", (await proofOf(ca, code)).der));
    expect(await said("State")).toBe("Verified");
    await expect(page.locator("#code").count()).resolves.toBe(0);

    await page.getByLabel("A device's first connect").selectOption({ label: "needs it created before" });
    await click("Set first connect");
    expect(await said("New devices")).toBe("only those created here before");
    await page.getByLabel("A certificate that no followed ledger holds").selectOption({ label: "is refused" });
    await click("Set unlogged");
    expect((await hub.api("GET", "/api/v1/cas/tutorial")).body).toMatchObject({ unlogged: "refuse" });
    await click("Disable");
    expect(await said("State")).toBe("Disabled");
    await click("Enable");
    expect(await said("State")).toBe("Verified");
    await page.getByRole("link", { name: "CAs" }).click();
    await expect(page.getByRole("row", { name: /tutorial Verified [0-9a-f]{64}/ }).count()).resolves.toBe(1);
    await page.getByRole("link", { name: "tutorial" }).click();
    await click("Remove");
    expect(await heading()).toBe("Registered CAs");
    await expect(page.getByRole("link", { name: "tutorial" }).count()).resolves.toBe(0);
  });

  it("create, disable, enable and remove a device; an ID twice and a wrong one are refused with the reason", async () => {
    await page.goto("/");
    await page.getByRole("link", { name: "Devices" }).click();
    const create = async (id: string): Promise<void> => {
      await page.getByLabel(/^Device ID/).fill(id);
      await click("Create");
    };
    await create("<b>dev");
    expect(await alert()).toContain("not a device ID");
    await create("dev-1");
    expect([await heading(), await said("State"), await said("Last connect")]).toEqual([
      "Device dev-1",
      "enabled",
      "never",
    ]);
    for (const [verb, state] of [
      ["Disable", "disabled"],
      ["Enable", "enabled"],
    ] as const) {
      await click(verb);
      expect(await said("State")).toBe(state);
      expect((await hub.api("GET", "/api/v1/devices/dev-1")).body).toMatchObject({ state });
    }
    await page.getByRole("link", { name: "Devices" }).click();
    await create("dev-1");
    expect(await alert()).toBe("the hub already knows the device dev-1");
    await page.getByRole("link", { name: "dev-1" }).click();
    await click("Remove");
    expect(await heading()).toBe("Devices");
    expect((await hub.api("GET", "/api/v1/devices/dev-1")).status).toBe(404);
  });

  it("are used by keyboard alone, and what has the focus shows", async () => {
    await page.goto("/");
    const tabTo = async (name: string): Promise<void> => {
      for (let i = 0; i < 20; i++) {
        await page.keyboard.press("Tab");
        const focused = page.locator(":focus");
        if ((await focused.ariaSnapshot()).includes(`"${name}`)) {
          expect(await focused.evaluate((element) => getComputedStyle(element).outlineStyle)).toBe("solid");
          return;
        }
      }
      throw new Error(`${name} can't be reached by keyboard`);
    };
    await tabTo("Name");
    await page.keyboard.type("by-keyboard");
    await tabTo("Add and get a verification code");
    await page.keyboard.press("Enter");
    await page.waitForURL("**/cas/by-keyboard");
    await tabTo("New code");
    await tabTo("A device's first connect");
    await page.keyboard.press("ArrowDown");
    await tabTo("Set first connect");
    await page.keyboard.press("Enter");
    await expect.poll(() => said("New devices")).toBe("only those created here before");
    await tabTo("Remove");
    await page.keyboard.press("Enter");
    await page.waitForURL(`${origin}/`);
  });

  it("name everything that is used, have a language and a title, and make the browser complain of nothing", async () => {
    await hub.api("POST", "/api/v1/devices", { deviceId: "dev-2" });
    await hub.api("POST", "/api/v1/cas", { name: "named" });
    for (const path of ["/", "/cas/named", "/devices", "/devices/dev-2"]) {
      const loaded: string[] = [];
      page.on("request", (request) => loaded.push(new URL(request.url()).pathname));
      await page.goto(path);
      expect(await page.title()).toMatch(/ - hub$/);
      expect(await page.locator("html").getAttribute("lang")).toBe("en");
      await expect(page.locator("script, [onclick], [style]").count()).resolves.toBe(0);
      const used = await page.locator("a, button, input, select").all();
      expect(used.length).toBeGreaterThan(2);
      // Without a name it would be `- button` and nothing behind.
      for (const one of used) expect(await one.ariaSnapshot()).toMatch(/^- \w+ "[^"]+"/);
      const buttons = await page.locator("button").allInnerTexts();
      expect(new Set(buttons).size).toBe(buttons.length);
      expect(new Set(loaded)).toEqual(new Set([path, "/style.css"]));
      page.removeAllListeners("request");
    }
    expect(complaints).toEqual([]);
  });

  it("take no form of another site's page, though the browser shows the operator's certificate", async () => {
    const evil = file(
      "evil.html",
      `<form method="post" action="${origin}/devices"><input name="id" value="stolen" /><button>Win</button></form>`,
    );
    await page.goto(`file://${evil}`);
    await click("Win");
    await page.waitForURL(`${origin}/devices`);
    expect(await page.content()).toContain("this form isn't one of the hub's own pages");
    expect((await hub.api("GET", "/api/v1/devices/stolen")).status).toBe(404);
  });

  it("open for nobody without an operator's certificate", async () => {
    const stranger = await browser.newContext({ ignoreHTTPSErrors: true });
    const answer = await (await stranger.newPage()).goto(`${origin}/`);
    expect(answer?.status()).toBe(401);
    await stranger.close();
  });
});
