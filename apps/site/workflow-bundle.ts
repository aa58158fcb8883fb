import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { bundleWorkflowCode, DefaultLogger } from "@temporalio/worker";
import { CACHE_DIR, PROJECT_ROOT } from "./stack/machine.ts";

/** What a workflow may import: the bundle changes when one of these does. */
const SOURCES = ["workflows", "contracts", "lib/records", "lib/domain", "package-lock.json"];

/**
 * The workflows' bundle, made once for each state of the sources: bundling takes a second or two of a core, and four
 * processes of the embedded stack start side by side. Two at once make the same file.
 * @returns its path
 */
export async function workflowBundle(): Promise<string> {
  const file = join(CACHE_DIR, "workflows", `${sourceDigest()}.js`);
  if (existsSync(file)) return file;
  const { code } = await bundleWorkflowCode({
    workflowsPath: join(PROJECT_ROOT, "workflows", "index.ts"),
    logger: new DefaultLogger("WARN"),
  });
  mkdirSync(join(CACHE_DIR, "workflows"), { recursive: true });
  const next = `${file}.${process.pid}`;
  writeFileSync(next, code);
  renameSync(next, file);
  return file;
}

function sourceDigest(): string {
  const hash = createHash("sha256");
  const add = (path: string): void => {
    hash
      .update(`${path}\n`)
      .update(readFileSync(join(PROJECT_ROOT, path)))
      .update("\n");
  };
  for (const source of SOURCES) {
    if (source.endsWith(".json")) {
      add(source);
      continue;
    }
    const names = readdirSync(join(PROJECT_ROOT, source), { recursive: true, encoding: "utf8" });
    for (const name of names.sort()) if (name.endsWith(".ts") && !name.endsWith(".test.ts")) add(`${source}/${name}`);
  }
  return hash.digest("hex").slice(0, 32);
}
