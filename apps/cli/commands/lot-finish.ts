import type { Command } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { note, print, printJson } from "../output.ts";
import { startProgress } from "../progress.ts";
import { SiteClient } from "../site-client.ts";
import { postInstallations } from "../station.ts";
import { wholeNumber, withSite } from "../lot-view.ts";

/** `countersign lot inject` and `lot install`: what becomes of a lot's devices once they are certified. */

interface InjectionView {
  readonly id: string;
  readonly state: string;
  readonly done: number;
  readonly failed: number;
}
interface DeviceView {
  readonly deviceId: string;
  readonly slot: number;
  readonly state: string;
}

const DEFAULT_SITE = "technician-z";
const INJECTION_MS = 60 * 60_000;
/** Its place and time are kept beside the ledger, and can be erased; a commitment to them is what is logged. */
const MAX_PLACE = 200;

export function registerInject(lot: Command): void {
  lot
    .command("inject")
    .argument("<id>", "the lot's id")
    .description("put the chains of certified devices into their images, each read back, and wait for it")
    .option("--limit <k>", "the next K devices only", wholeNumber)
    .option("--site <id>", "the site that certified them", DEFAULT_SITE)
    .option("--json", "machine-readable")
    .addHelpText(
      "after",
      "\nExit code 1 when an image failed.\n\nExample:\n  $ countersign lot inject lot-7 --limit 10",
    )
    .action((id: string, options: { limit?: number; site: string; json?: boolean }) =>
      withSite(options.site, async (client) => {
        const path = `/api/v1/lots/${encodeURIComponent(id)}/injections`;
        const { limit } = options;
        const run = await client.post<{ id: string }>(path, limit === undefined ? {} : { limit });
        const progress = process.stderr.isTTY ? startProgress("inject", limit ?? 0) : undefined;
        const end = await client.poll<InjectionView>(
          path,
          (view) => {
            // A later run of the same lot begins where this one ended.
            if (view.id !== run.id)
              throw new CountersignError("state-conflict", `another injection of ${id} has begun`);
            progress?.update(view.done);
            return view.state === "done";
          },
          { timeoutMs: INJECTION_MS, what: `the injection of ${id}` },
        );
        progress?.finish();
        if (end.failed > 0) process.exitCode = 1;
        if (options.json) return printJson(end);
        print(`${end.done} images${end.failed > 0 ? `, ${end.failed} failed` : ""}`);
      }),
    );
}

export function registerInstall(lot: Command): void {
  lot
    .command("install")
    .argument("<id>", "the lot's id")
    .description("record the lot's certified devices as installed at one place, now, signed by the technician")
    .requiredOption("--place <text>", "where they are installed; the ledger gets a commitment to it")
    .option("--device <id>", "this device only; repeat", collect)
    .option("--site <id>", "the technician's site", DEFAULT_SITE)
    .option("--json", "machine-readable")
    .addHelpText(
      "after",
      '\nExit code 1 when a device was refused.\n\nExample:\n  $ countersign lot install lot-7 --place "Line 1, Hall B"',
    )
    .action(async (id: string, options: { place: string; device?: string[]; site: string; json?: boolean }) => {
      const { place } = options;
      if (place.trim() === "" || place.length > MAX_PLACE) {
        throw new CountersignError("usage", `say where, in at most ${MAX_PLACE} characters`);
      }
      const client = await SiteClient.open(options.site, { role: "technician" });
      try {
        const deviceIds = options.device ?? (await installable(client, id));
        const results = await postInstallations(client, { lot: id, deviceIds, place });
        const refused = results.flatMap(({ error }, i) => (error ? [{ deviceId: deviceIds[i]!, error }] : []));
        if (refused.length > 0) process.exitCode = 1;
        const installed = results.length - refused.length;
        if (options.json) return printJson({ lot: id, installed, refused });
        for (const { deviceId, error } of refused) note(`${deviceId}: ${error.message} [${error.code}]`);
        print(`${installed} devices of ${id} installed${refused.length > 0 ? `, ${refused.length} refused` : ""}`);
      } finally {
        client.close();
      }
    });
}

/** Everything of the lot that is here, certified, and not installed yet. */
async function installable(client: SiteClient, lot: string): Promise<string[]> {
  const ids: string[] = [];
  for (let after = 0; ;) {
    const query = new URLSearchParams({ lot, afterSlot: String(after), limit: "1000" });
    const { devices } = await client.get<{ devices: DeviceView[] }>(`/api/v1/devices?${query}`);
    for (const { deviceId, state } of devices) if (state === "certified" || state === "injected") ids.push(deviceId);
    const last = devices.at(-1);
    if (last === undefined) break;
    after = last.slot;
  }
  if (ids.length > 0) return ids;
  throw new CountersignError("state-conflict", `no device of lot ${lot} waits to be installed at ${client.party}`);
}

const collect = (text: string, before: string[] = []): string[] => [...before, text];
