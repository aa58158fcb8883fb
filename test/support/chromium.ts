import { pathToFileURL } from "node:url";
import { type Browser, type BrowserContext, chromium, type Page } from "playwright-core";
import { which } from "../../apps/site/stack/machine.ts";
import { tool } from "./index.ts";

const QUIET = ["--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--disable-background-networking"];

/** What a page, or the browser on its behalf, complained of. */
export interface Visit {
  readonly page: Page;
  readonly complaints: string[];
}

/** The system's own Chromium. */
export function openBrowser(): Promise<Browser> {
  return chromium.launch({
    executablePath: which("chromium-browser") ?? tool("chromium"),
    args: QUIET,
    chromiumSandbox: false,
  });
}

export async function visit(context: BrowserContext): Promise<Visit> {
  const page = await context.newPage();
  const complaints: string[] = [];
  page.on("console", (message) => complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(error.message));
  page.setDefaultTimeout(20_000);
  return { page, complaints };
}

/** A file's page as the browser has it after loading, and what it complained of. */
export async function loadPage(file: string): Promise<{ dom: string; complaints: string[] }> {
  const browser = await openBrowser();
  try {
    const { page, complaints } = await visit(await browser.newContext());
    await page.goto(pathToFileURL(file).href);
    return { dom: await page.content(), complaints };
  } finally {
    await browser.close();
  }
}
