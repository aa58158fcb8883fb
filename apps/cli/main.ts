import { CommanderError } from "commander";
import { reportError } from "./output.ts";
import { buildProgram } from "./program.ts";

async function main(argv: readonly string[]): Promise<number> {
  try {
    await buildProgram().parseAsync([...argv], { from: "user" });
    return typeof process.exitCode === "number" ? process.exitCode : 0;
  } catch (error) {
    // --help and --version end here too.
    if (error instanceof CommanderError && error.exitCode === 0) return 0;
    // A group without its command has shown its help.
    if (error instanceof CommanderError && error.code === "commander.help") return 2;
    return reportError(error, argv.includes("--json"));
  }
}

// A reader that has seen enough (`| head`) is no error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});

process.exitCode = await main(process.argv.slice(2));
