import type { Command } from "commander";
import type { HubGroupShown } from "../hub-answers.ts";
import { print, printJson, table } from "../output.ts";
import { withHub } from "./hub.ts";

interface Json {
  json?: boolean;
}

/** `countersign hub groups` lists them; its subcommands make, disable and ask. */
export function registerHubGroups(hub: Command): void {
  const groups = hub
    .command("groups")
    .description("groups of devices by what their chain says (docs/groups.md)")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign hub groups")
    .action((options: Json) =>
      withHub(async (client) => {
        const all = await client.groups();
        if (options.json) return printJson(all);
        print(table([["NAME", "STATE", "ENROLMENT", "SCOPES", "QUERY"], ...all.map(row)]));
      }),
    );
  groups
    .command("set")
    .argument("<name>", "the group's name")
    .argument("<query>", "such as 'under technician-z and device = dev-1-*'")
    .option("--enrolment <policy>", "first-connect or registered; without it, as the CA of its devices says")
    .option("--scopes <list>", "what its devices may use: telemetry,messages,twin,methods; without it, everything")
    .description("make a group, or change the one of this name")
    .option("--json", "machine-readable")
    .addHelpText(
      "after",
      "\nExample:\n  $ countersign hub groups set line-3 'under technician-z' --scopes telemetry,twin",
    )
    .action((name: string, query: string, options: Json & { enrolment?: string; scopes?: string }, command: Command) =>
      withHub(async (client) => {
        const { enrolment = null, scopes } = options;
        const group = {
          query,
          enrolment,
          scopes: scopes === undefined ? null : scopes.split(",").filter((s) => s !== ""),
        };
        shown(await client.setGroup(name, group), command);
      }),
    );
  for (const verb of ["disable", "enable"] as const) {
    groups
      .command(verb)
      .argument("<name>", "the group's name")
      .description(verb === "disable" ? "end its devices' connections and let none in" : "let its devices in again")
      .option("--json", "machine-readable")
      .addHelpText("after", `\nExample:\n  $ countersign hub groups ${verb} line-3`)
      .action((name: string, _options: Json, command: Command) =>
        withHub(async (client) => shown(await client.switchGroup(name, verb), command)),
      );
  }
  groups
    .command("remove")
    .argument("<name>", "the group's name")
    .description("forget the group; its devices stay")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign hub groups remove line-3")
    .action((name: string, _options: Json, command: Command) =>
      withHub(async (client) => {
        await client.removeGroup(name);
        if (wantsJson(command)) printJson({ name, removed: true });
      }),
    );
  groups
    .command("ask")
    .argument("<query>", "also with `state` and `connected`")
    .description("the devices in a group, by what the hub last saw of each")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign hub groups ask 'under technician-z and connected < 2026-07'")
    .action((query: string, _options: Json, command: Command) =>
      withHub(async (client) => {
        const devices = await client.askGroup(query);
        if (wantsJson(command)) return printJson(devices);
        for (const device of devices) print(device);
      }),
    );
}

/** The parent has the option too, and takes it first. */
function wantsJson(command: Command): boolean {
  return command.optsWithGlobals<Json>().json === true;
}

function shown(group: HubGroupShown, command: Command): void {
  if (wantsJson(command)) return printJson(group);
  print(table([["NAME", "STATE", "ENROLMENT", "SCOPES", "QUERY"], row(group)]));
}

function row(group: HubGroupShown): string[] {
  const { name, query, disabledAt, enrolment, scopes } = group;
  return [name, disabledAt === null ? "enabled" : "disabled", enrolment ?? "-", scopes?.join(",") ?? "all", query];
}
