import { existsSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  bundleWorkflowCode,
  DefaultLogger,
  Runtime,
  Worker,
  type WorkflowBundleWithSourceMap,
} from "@temporalio/worker";
import { beforeAll, describe, expect, it } from "vitest";
import { HISTORIES } from "../support/histories.ts";
import { PROJECT_ROOT, tempDir } from "../support/index.ts";

describe("the workflows", () => {
  let bundle: WorkflowBundleWithSourceMap;

  // Webpack refuses Node modules and whatever isn't deterministic, also deep inside a dependency.
  beforeAll(async () => {
    Runtime.install({ logger: new DefaultLogger("WARN") });
    bundle = await bundleWorkflowCode({
      workflowsPath: join(PROJECT_ROOT, "workflows", "index.ts"),
      logger: new DefaultLogger("WARN"),
    });
  });

  it("bundle for Temporal's sandbox", () => {
    expect(bundle.code.length).toBeGreaterThan(10_000);
  });

  it("would not bundle with a Node module", async () => {
    const folder = tempDir("workflow");
    symlinkSync(join(PROJECT_ROOT, "node_modules"), join(folder, "node_modules"));
    for (const [name, source] of Object.entries({
      fs: 'import { readFileSync } from "node:fs";\nexport const w = async () => readFileSync("x");\n',
      crypto: 'import * as c from "crypto";\nexport const w = async () => c.randomBytes(1);\n',
    })) {
      const workflowsPath = join(folder, `${name}.ts`);
      writeFileSync(workflowsPath, source);
      const said: string[] = [];
      const logger = new DefaultLogger("ERROR", ({ message }) => said.push(message));
      const refusal = await bundleWorkflowCode({ workflowsPath, logger }).then(
        () => "bundled",
        (error: unknown) => `${String(error)}\n${said.join("\n")}`,
      );
      expect(refusal, name).toMatch(/ERROR in node:fs|disallowed modules|non-deterministic modules/);
    }
  });

  it("replay every saved history", async () => {
    const files = existsSync(HISTORIES) ? readdirSync(HISTORIES).filter((name) => name.endsWith(".json")) : [];
    const histories = files.map((name) => ({
      workflowId: name.slice(0, -".json".length),
      history: JSON.parse(readFileSync(join(HISTORIES, name), "utf8")) as unknown,
    }));
    const failures: string[] = [];
    for await (const { workflowId, error } of Worker.runReplayHistories({ workflowBundle: bundle }, histories)) {
      if (error !== undefined) failures.push(`${workflowId}: ${error.message}`);
    }
    expect(failures).toEqual([]);
  });
});
