import { InvalidArgumentError, Option, type Command } from "commander";
import type { Layout } from "../../lib/firmware/index.ts";

/** How a layout is written on a command line: as options, or after `--layout FORMAT:TEMPLATE,`. */

type Kind = "number" | "octal" | "text" | readonly string[];
type Names = Exclude<keyof Layout, "replace">;

const OPTIONS: Readonly<Record<Names, readonly [kind: Kind, description: string]>> = {
  offset: ["number", "where the chain goes (file offset or target address, decimal or 0x)"],
  length: ["number", "bytes reserved there; a longer chain is refused"],
  partition: ["text", "esp-flash: the partition's label"],
  namespace: ["text", "esp-nvs, esp-flash: NVS namespace"],
  key: ["text", "esp-nvs, esp-flash: NVS key"],
  type: [["blob", "string"], "esp-nvs, esp-flash: how NVS holds it"],
  path: ["text", "ext4: absolute path of the chain's file"],
  mode: ["octal", "ext4: the file's mode"],
  tag: ["number", "mcuboot: type of the protected TLV"],
  section: ["text", "elf: the section that the linker reserved"],
  encoding: [["pem-nul", "pem", "der"], "of the chain, where the format leaves a choice"],
};
const NAMES = Object.keys(OPTIONS) as Names[];

export const LAYOUT_SYNTAX = `${NAMES.map((name) => `${name}=...`).join(" | ")} | replace`;

export function addLayoutOptions(command: Command): Command {
  for (const name of NAMES) {
    const [kind, description] = OPTIONS[name];
    const option = new Option(`--${name} <${typeof kind === "string" ? kind : name}>`, description);
    command.addOption(option.argParser((value) => parseValue(name, value)));
  }
  return command;
}

/** What of the options is the layout. */
export function layoutOf(options: Layout): Layout {
  return Object.fromEntries(
    [...NAMES, "replace" as const].flatMap((name) => (options[name] === undefined ? [] : [[name, options[name]]])),
  );
}

/** `offset=0x1000`, `replace`, ... @throws InvalidArgumentError */
export function parseSetting(setting: string): Layout {
  if (setting === "replace") return { replace: true };
  const at = setting.indexOf("=");
  const name = NAMES.find((one) => one === setting.slice(0, at));
  if (name === undefined) throw new InvalidArgumentError(`${JSON.stringify(setting)} is none of ${LAYOUT_SYNTAX}`);
  return { [name]: parseValue(name, setting.slice(at + 1)) };
}

function parseValue(name: Names, value: string): string | number {
  const [kind] = OPTIONS[name];
  if (kind === "text") {
    if (value === "" || value.length > 512) throw new InvalidArgumentError("Give 1 to 512 characters.");
    return value;
  }
  if (kind === "octal") {
    if (!/^(0o?)?[0-7]{3}$/.test(value)) throw new InvalidArgumentError("Give three octal digits, such as 0444.");
    return Number.parseInt(value.slice(-3), 8);
  }
  if (kind === "number") {
    if (!/^(0x[0-9a-fA-F]{1,12}|[0-9]{1,15})$/.test(value)) {
      throw new InvalidArgumentError("Give a decimal number or a hexadecimal one with 0x.");
    }
    return Number(value);
  }
  if (!kind.includes(value)) throw new InvalidArgumentError(`Give one of ${kind.join(", ")}.`);
  return value;
}
