import { InvalidArgumentError, type Command } from "commander";
import { PARTY_ID } from "../../lib/domain/ids.ts";

/**
 * Every command takes `--site ID` and `--json`, so that a script can pass them always: those that ask no site go on
 * without, and those with nothing to show print their outcome.
 */
export function addCommonOptions(command: Command): void {
  for (const sub of command.commands) addCommonOptions(sub);
  if (command.commands.length > 0 && command.registeredArguments.length === 0) return;
  const find = (flag: string) => command.options.find((option) => option.long === flag);
  const site = find("--site");
  if (site) site.argParser(partyId);
  else command.option("--site <id>", "accepted everywhere; this command asks no site", partyId);
  if (!find("--json")) command.option("--json", "machine-readable");
}

function partyId(text: string): string {
  if (!PARTY_ID.test(text)) throw new InvalidArgumentError("expected a party ID, such as factory-y");
  return text;
}
