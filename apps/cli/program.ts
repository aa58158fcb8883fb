import { readFileSync } from "node:fs";
import { Command } from "commander";
import { registerAudit } from "./commands/audit.ts";
import { registerBench } from "./commands/bench.ts";
import { registerCeremony } from "./commands/ceremony.ts";
import { registerChain } from "./commands/chain.ts";
import { registerDevice } from "./commands/device.ts";
import { registerExpiring } from "./commands/expiring.ts";
import { registerFirmware } from "./commands/firmware.ts";
import { registerGroup } from "./commands/group.ts";
import { registerHandoff } from "./commands/handoff.ts";
import { registerHub } from "./commands/hub.ts";
import { registerLot } from "./commands/lot.ts";
import { registerMonitor } from "./commands/monitor.ts";
import { registerOpenings } from "./commands/openings.ts";
import { registerParty } from "./commands/party.ts";
import { registerReconcile } from "./commands/reconcile.ts";
import { registerRecovery } from "./commands/recovery.ts";
import { registerRevoke } from "./commands/revoke.ts";
import { registerRotate } from "./commands/rotate.ts";
import { registerSign } from "./commands/sign.ts";
import { registerStack } from "./commands/stack.ts";
import { registerTrace } from "./commands/trace.ts";
import { registerVerify } from "./commands/verify.ts";
import { addCommonOptions } from "./common-options.ts";

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
  registerGroup,
  registerVerify,
  registerAudit,
  registerChain,
  registerMonitor,
  registerOpenings,
  registerHub,
  registerExpiring,
  registerReconcile,
  registerRevoke,
  registerRotate,
  registerRecovery,
  registerBench,
];

/** The whole command line. It throws what it refuses; saying so and the exit code are the caller's. */
export function buildProgram(): Command {
  const { version } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
    version: string;
  };
  const program = new Command("countersign")
    .description("Supply-chain signing with delegated intermediate CAs.")
    .version(version)
    // Commander would exit by itself and word errors its own way; the commands below inherit both from here.
    .exitOverride()
    .configureOutput({ outputError: () => undefined })
    .addHelpText(
      "after",
      "\nExit codes: 0 done or verified, 1 the answer is no, 2 misuse or bad input, 3 a component is missing or unreachable." +
        "\n\nExample:\n  $ countersign up\n  $ countersign status\n  $ countersign audit out --root out/root.pem --policy out/policy.json",
    );
  for (const register of COMMANDS) register(program);
  addCommonOptions(program);
  return program;
}
