import type { Command } from "commander";
import { visible } from "../../../lib/ledger/audit/report/escape.ts";
import { paint, print, printJson, table } from "../output.ts";
import { withHub } from "./hub.ts";

/** `countersign hub status`: who is connected, which ledgers are followed, and what is wrong with them. */
export function registerHubStatus(hub: Command): void {
  hub
    .command("status")
    .description("connections and refusals; the ledgers that the hub follows, and its alarms")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExit code 1 while an alarm is open.\n\nExample:\n  $ countersign hub status")
    .action((options: { json?: boolean }) =>
      withHub(async (client) => {
        const [status, { ledgers, alarms }] = await Promise.all([client.status(), client.monitor()]);
        if (alarms.length > 0) process.exitCode = 1;
        if (options.json) return printJson({ ...status, alarms, ledgers });
        print(
          `connected    ${status.connected} (${status.devicesConnected} devices have been), MQTT port ${status.mqttPort}`,
        );
        print(`telemetry    ${status.telemetry} messages`);
        const refused = Object.entries(status.refusals).map(([code, count]) => `${code} ${count}`);
        print(`refused      ${refused.join(", ") || "nobody"}`);
        if (ledgers.length > 0) {
          const rows = ledgers.map((one) => [
            one.party,
            one.origin,
            `${one.entries} of ${one.size}`,
            visible([one.state ?? "not looked at yet", ...(one.error === null ? [] : [one.error])].join(": ")),
          ]);
          print(table([["LEDGER", "ORIGIN", "ENTRIES", "STATE"], ...rows]));
        }
        // What a ledger or a certificate is called must not steer the terminal.
        for (const { code, party, message, since } of alarms)
          print(`${paint("red", "alarm")} ${visible(`${party}: ${message}`)} [${code}] since ${since}`);
      }),
    );
}
