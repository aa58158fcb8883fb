import type { StackFile } from "../site/stack/stack-file.ts";
import { print, table } from "./output.ts";

/** Where a stack's parts can be reached. */
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
