import type { Command } from "commander";
import type { HubEnrollmentGroupShown } from "../hub-client.ts";
import { print, printJson, table } from "../output.ts";
import { withHub } from "./hub.ts";

interface Json {
  json?: boolean;
}

/** `countersign hub enrollment ...`: whose devices provisioning (DPS) gives to the hub. */
export function registerHubEnrollment(hub: Command): void {
  const enrollment = hub.command("enrollment").description("device provisioning: enrollment groups by registered CA");
  enrollment
    .command("add")
    .argument("<name>", "name of the group")
    .requiredOption("--ca <name>", "the registered CA whose devices belong to it")
    .description("let devices of a CA be provisioned to this hub")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign hub enrollment add lot-7 --ca company-x")
    .action((name: string, options: Json & { ca: string }) =>
      withHub(async (client) => shown(await client.addEnrollment(name, options.ca), options)),
    );
  enrollment
    .command("list")
    .description("all enrollment groups")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign hub enrollment list")
    .action((options: Json) =>
      withHub(async (client) => {
        const groups = await client.enrollments();
        if (options.json) return printJson(groups);
        print(table([["GROUP", "CA", "STATE"], ...groups.map(({ name, caName, state }) => [name, caName, state])]));
      }),
    );
  for (const verb of ["disable", "enable"] as const) {
    enrollment
      .command(verb)
      .argument("<name>", "name of the group")
      .description(verb === "disable" ? "provision its devices no more" : "provision its devices again")
      .option("--json", "machine-readable")
      .addHelpText("after", `\nExample:\n  $ countersign hub enrollment ${verb} lot-7`)
      .action((name: string, options: Json) =>
        withHub(async (client) => shown(await client.setEnrollment(name, verb), options)),
      );
  }
  enrollment
    .command("remove")
    .argument("<name>", "name of the group")
    .description("forget the group; devices that were provisioned stay")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign hub enrollment remove lot-7")
    .action((name: string, options: Json) =>
      withHub(async (client) => {
        await client.removeEnrollment(name);
        if (options.json) printJson({ name, removed: true });
      }),
    );
}

function shown(group: HubEnrollmentGroupShown, options: Json): void {
  if (options.json) return printJson(group);
  print(`${group.name} is ${group.state}: devices of ${group.caName}`);
}
