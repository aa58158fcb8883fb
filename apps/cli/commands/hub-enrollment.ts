import type { Command } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import type { HubEnrollmentGroupShown } from "../hub-answers.ts";
import { print, printJson, table } from "../output.ts";
import { changeElsewhere, elsewhereOptions, showElsewhere, type Elsewhere } from "./hub-elsewhere.ts";
import { withHub } from "./hub.ts";

interface Json {
  json?: boolean;
}

/** `countersign hub enrollment ...`: whose devices provisioning (DPS) gives to the hub. */
export function registerHubEnrollment(hub: Command): void {
  const enrollment = hub.command("enrollment").description("device provisioning: enrollment groups by registered CA");
  elsewhereOptions(enrollment.command("add").argument("<name>", "name of the group"))
    .requiredOption("--ca <name>", "the registered CA whose devices belong to it")
    .description("let devices of a CA be provisioned to this hub")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign hub enrollment add lot-7 --ca company-x")
    .action((name: string, options: Elsewhere & { ca: string }) =>
      options.hub === undefined
        ? withHub(async (client) => shown(await client.addEnrollment(name, options.ca), options))
        : changeElsewhere(options, { kind: "put-enrollment", subject: name, line: options.ca }),
    );
  elsewhereOptions(enrollment.command("show").argument("<name>", "name of the group"), false)
    .description("one enrollment group")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign hub enrollment show lot-7 --hub azure")
    .action((name: string, options: Elsewhere) => {
      if (options.hub !== undefined) return showElsewhere(`enrollments/${encodeURIComponent(name)}`, options);
      return withHub(async (client) => {
        const group = (await client.enrollments()).find((one) => one.name === name);
        if (group === undefined) throw new CountersignError("not-found", `the hub has no enrollment group ${name}`);
        shown(group, options);
      });
    });
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
    elsewhereOptions(enrollment.command(verb).argument("<name>", "name of the group"))
      .description(verb === "disable" ? "provision its devices no more" : "provision its devices again")
      .option("--json", "machine-readable")
      .addHelpText("after", `\nExample:\n  $ countersign hub enrollment ${verb} lot-7`)
      .action((name: string, options: Elsewhere) =>
        options.hub === undefined
          ? withHub(async (client) => shown(await client.setEnrollment(name, verb), options))
          : changeElsewhere(options, { kind: `${verb}-enrollment`, subject: name }),
      );
  }
  elsewhereOptions(enrollment.command("remove").argument("<name>", "name of the group"))
    .description("forget the group; devices that were provisioned stay")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign hub enrollment remove lot-7")
    .action((name: string, options: Elsewhere) => {
      if (options.hub !== undefined) return changeElsewhere(options, { kind: "remove-enrollment", subject: name });
      return withHub(async (client) => {
        await client.removeEnrollment(name);
        if (options.json) printJson({ name, removed: true });
      });
    });
}

function shown(group: HubEnrollmentGroupShown, options: Json): void {
  if (options.json) return printJson(group);
  print(`${group.name} is ${group.state}: devices of ${group.caName}`);
}
