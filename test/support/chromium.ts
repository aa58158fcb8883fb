import { spawn } from "node:child_process";
import { pathToFileURL } from "node:url";
import { which } from "../../apps/site/stack/machine.ts";
import { tempDir } from "./index.ts";

/** The system's Chromium, where there is one. */
export const findChromium = (): string | undefined => which("chromium") ?? which("chromium-browser");

const QUIET = [
  ...["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"],
  ...["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"],
];

/** The page as the browser has it after loading, and what it complained of. */
export async function loadPage(chromium: string, file: string): Promise<{ dom: string; complaints: string[] }> {
  const args = [...QUIET, `--user-data-dir=${tempDir("chromium")}`, "--enable-logging=stderr", "--dump-dom"];
  const child = spawn(chromium, [...args, pathToFileURL(file).href], {
    stdio: ["ignore", "pipe", "pipe"],
    timeout: 60_000,
  });
  let dom = "";
  let log = "";
  child.stdout.setEncoding("utf8").on("data", (part: string) => (dom += part));
  child.stderr.setEncoding("utf8").on("data", (part: string) => (log += part));
  await new Promise<void>((done, fail) => {
    child.once("error", fail);
    child.once("close", () => done());
  });
  return { dom, complaints: log.split("\n").filter((line) => line.includes("CONSOLE")) };
}
