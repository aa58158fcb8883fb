import { once } from "node:events";
import type { Command } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { isAlive, Stack } from "../../site/stack/stack.ts";
import { readStackFile, type StackFile } from "../../site/stack/stack-file.ts";
import { note, paint, print, printJson, table } from "../output.ts";
import { runStart, type StartOptions } from "../scenario/start.ts";
import { stateFolder } from "../site-client.ts";

export function registerStack(program: Command): void {
  program
    .command("start")
    .description("start the embedded stack, play the custody chain once, and go on serving")
    .option("--once", "stop everything afterwards, and keep no state")
    .option("--devices <n>", "devices to make", wholeNumber, 100)
    .option("--images <k>", "inject the chain into an image for the first K devices only (default: all, up to 100)", wholeNumber)
    .option("--csrs <file>", 'take ready CSRs, NDJSON lines {"csr": PEM}, instead of making devices: no keys, images or connects')
    .option("--out <dir>", "write the evidence there")
    .addHelpText("after", "\nExample:\n  $ npm start -- --once --devices 100 --out out")
    .action((options: StartOptions) => runStart(options));

  program
    .command("up")
    .description("start the embedded stack in the foreground; Ctrl-C or `countersign down` stops it")
    .addHelpText("after", "\nExample:\n  $ countersign up")
    .action(async () => {
      const stack = await startStack(stateFolder());
      printWhere(stack.info);
      await untilStopped(stack);
    });

  program
    .command("down")
    .description("stop the embedded stack")
    .addHelpText("after", "\nExample:\n  $ countersign down")
    .action(async () => {
      const { pid } = await readStackFile(stateFolder());
      if (isAlive(pid)) process.kill(pid, "SIGTERM");
      for (let waited = 0; isAlive(pid); waited += 100) {
        if (waited > 60_000) throw new CountersignError("timeout", `process ${pid} is still stopping; look at it with \`ps ${pid}\``);
        await new Promise((resolve) => setTimeout(resolve, 100));
      }
      note("stopped");
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
      if (!running) throw new CountersignError("component-unreachable", `the stack of ${info.home} has ended: start it with \`countersign up\``);
    });
}

function wholeNumber(text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 0 || value > 1_000_000) {
    throw new CountersignError("usage", `${text} is not a whole number from 0 to 1000000`);
  }
  return value;
}

/** Starts the stack; a Ctrl-C while it starts ends it, too. */
export async function startStack(home: string): Promise<Stack> {
  return Stack.start({
    home,
    onStep: (what) => note(paint("dim", `starting ${what}`)),
    onFailure(name, logFile) {
      note(`${paint("red", "countersign:")} ${name} has ended by itself; see ${logFile}. Stopping.`);
      process.exitCode = 3;
      process.kill(process.pid, "SIGTERM");
    },
  });
}

/** Waits for Ctrl-C or SIGTERM, then stops everything in order. */
export async function untilStopped(stack: Stack): Promise<void> {
  // Keeps the process alive; servers are its children.
  const alive = setInterval(() => undefined, 1 << 30);
  await Promise.race([once(process, "SIGINT"), once(process, "SIGTERM")]);
  clearInterval(alive);
  note("stopping ...");
  await stack.stop();
}

export function printWhere(info: StackFile): void {
  print(
    table([
      ["", "address", "process"],
      ...info.sites.map((site) => [site.id, site.url, String(site.pid)]),
      ["hub", `mqtts://${info.hub.mqtt}`, String(info.hub.pid)],
    ]),
  );
  print(`state: ${info.home}`);
}

