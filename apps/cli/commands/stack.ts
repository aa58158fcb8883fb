import type { Command } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { isAlive, readStackFile } from "../../site/stack/stack-file.ts";
import { note, printJson } from "../output.ts";
import { printWhere } from "../where.ts";
import type { StartOptions } from "../scenario/start.ts";
import { stateFolder } from "../site-client.ts";

// The stack's own modules (Temporal, Postgres) are loaded by the commands that run it: the others answer at once.

export function registerStack(program: Command): void {
  program
    .command("start")
    .description("start the embedded stack, play the custody chain once, and go on serving")
    .option("--once", "stop everything afterwards, and keep no state")
    .option("--devices <n>", "devices to make", wholeNumber, 100)
    .option(
      "--images <k>",
      "inject the chain into an image for the first K devices only (default: all, up to 100)",
      wholeNumber,
    )
    .option(
      "--csrs <file>",
      'take ready CSRs, NDJSON lines {"csr": PEM}, instead of making devices: no keys, images or connects',
    )
    .option("--out <dir>", "write the evidence there")
    .option("--json", "print the outcome as JSON, and where everything is unless --once")
    .addHelpText("after", "\nExample:\n  $ npm start -- --once --devices 100 --out out")
    .action(async (options: StartOptions) => {
      const { runStart } = await import("../scenario/start.ts");
      await runStart(options);
    });

  program
    .command("up")
    .description("start the embedded stack in the foreground; Ctrl-C or `countersign down` stops it")
    .option("--json", "print where everything is as JSON")
    .addHelpText("after", "\nExample:\n  $ countersign up")
    .action(async (options: { json?: boolean }) => {
      const { runStack } = await import("../scenario/running.ts");
      await runStack(stateFolder(), async (stack, stopped) => {
        if (options.json) printJson({ running: true, ...stack.info });
        else printWhere(stack.info);
        await stopped;
      });
    });

  program
    .command("down")
    .description("stop the embedded stack")
    .addHelpText("after", "\nExample:\n  $ countersign down")
    .option("--json", "print the process that was stopped as JSON")
    .action(async (options: { json?: boolean }) => {
      const { pid } = await readStackFile(stateFolder());
      if (isAlive(pid)) process.kill(pid, "SIGTERM");
      for (let waited = 0; isAlive(pid); waited += 100) {
        if (waited > 60_000)
          throw new CountersignError("timeout", `process ${pid} is still stopping; look at it with \`ps ${pid}\``);
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      if (options.json) printJson({ running: false, pid });
      else note("stopped");
    });

  program
    .command("status")
    .description("sites, hub, URLs and process ids")
    .option("--json", "print them as JSON")
    .addHelpText("after", "\nExample:\n  $ countersign status --json")
    .action(async (options: { json?: boolean }) => {
      const info = await readStackFile(stateFolder());
      const running = isAlive(info.pid);
      if (options.json) printJson({ running, ...info });
      else printWhere(info);
      if (!running)
        throw new CountersignError(
          "component-unreachable",
          `the stack of ${info.home} has ended: start it with \`countersign up\``,
        );
    });
}

function wholeNumber(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value > 1_000_000) {
    throw new CountersignError("usage", `${text} is not a whole number from 0 to 1000000`);
  }
  return value;
}
