import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { registerAudit } from "./commands/audit.ts";
import { registerCeremony } from "./commands/ceremony.ts";
import { registerChain } from "./commands/chain.ts";
import { registerDevice } from "./commands/device.ts";
import { registerFirmware } from "./commands/firmware.ts";
import { registerHandoff } from "./commands/handoff.ts";
import { registerHub } from "./commands/hub.ts";
import { registerLot } from "./commands/lot.ts";
import { registerParty } from "./commands/party.ts";
import { registerSign } from "./commands/sign.ts";
import { registerStack } from "./commands/stack.ts";
import { registerTrace } from "./commands/trace.ts";
import { registerVerify } from "./commands/verify.ts";
import { reportError } from "./output.ts";

const COMMANDS = [
  registerStack,
  registerCeremony,
  registerParty,
  registerLot,
  registerSign,
  registerHandoff,
  registerDevice,
  registerFirmware,
  registerTrace,
  registerVerify,
  registerAudit,
  registerChain,
  registerHub,
];

function buildProgram(): Command {
  const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
    version: string;
  };
  const program = new Command("countersign")
    .description("Supply-chain signing with delegated intermediate CAs.")
    .version(version)
    .showHelpAfterError("(add --help for how to use it)")
    .addHelpText(
      "after",
      "\nExit codes: 0 done or verified, 1 the answer is no, 2 misuse or bad input, 3 a component is missing or unreachable." +
        "\n\nExample:\n  $ countersign up\n  $ countersign status\n  $ countersign audit out --root out/root.pem --policy out/policy.json",
    );
  for (const register of COMMANDS) register(program);
  withExitOverride(program);
  return program;
}

/** Commander would exit by itself; we decide on the code. */
function withExitOverride(command: Command): void {
  command.exitOverride();
  for (const sub of command.commands) withExitOverride(sub);
}

async function main(argv: readonly string[]): Promise<number> {
  try {
    await buildProgram().parseAsync([...argv], { from: "user" });
    return typeof process.exitCode === "number" ? process.exitCode : 0;
  } catch (error) {
    // --help and --version end here too; what commander refuses is misuse, and it has said so already.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    return reportError(error, argv.includes("--json"));
  }
}

// A reader that has seen enough (`| head`) is no error.
process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  if (error.code === "EPIPE") process.exit(0);
  throw error;
});

process.exitCode = await main(process.argv.slice(2));
