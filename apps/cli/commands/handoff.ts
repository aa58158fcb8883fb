import type { Command } from "commander";
import { CountersignError, isCountersignError } from "../../../lib/domain/errors.ts";
import { note, print, printJson } from "../output.ts";
import type { SiteClient } from "../site-client.ts";
import { withSite } from "../lot-view.ts";

/** `countersign handoff ...`: devices change hands, signed by both. */

interface HandoffView {
  readonly id: string;
  readonly direction: "out" | "in";
  readonly lot: string;
  readonly peer: string;
  readonly state: string;
  readonly count: number;
  readonly error?: { code: string; message: string };
}

const ARRIVAL_MS = 60_000;
const RELEASE_MS = 30_000;

export function registerHandoff(program: Command): void {
  const handoff = program.command("handoff").description("devices change hands, signed by both parties");

  handoff
    .command("release")
    .description("release everything built and still in hand of a lot to the party that certifies it")
    .requiredOption("--lot <id>", "the lot")
    .requiredOption("--to <party>", "who takes the devices")
    .option("--site <id>", "the giver's site", "factory-y")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign handoff release --lot lot-7 --to technician-z")
    .action((options: { lot: string; to: string; site: string; json?: boolean }) =>
      withSite(options.site, async (client) => {
        const path = `/api/v1/lots/${encodeURIComponent(options.lot)}/handoffs`;
        const asked = await client.post<HandoffView>(path, { to: options.to });
        const view = await released(client, asked);
        if (options.json) return printJson(view);
        note(`${view.count} devices of ${view.lot} are released to ${view.peer}; there: countersign handoff receive`);
        print(view.id);
      }),
    );

  handoff
    .command("receive")
    .argument("<id>", "the handoff's id, as the giver's release printed it")
    .description("take released devices into custody, and say what was wrong with them")
    .option("--discrepancy <text>", 'what was wrong; "DEVICE: reason" keeps that device out', collect)
    .option("--site <id>", "the taker's site", "technician-z")
    .option("--json", "machine-readable")
    .addHelpText(
      "after",
      '\nExample:\n  $ countersign handoff receive lot-7.factory-y.1f2e3d4c --discrepancy "dev-0007: missing"',
    )
    .action((id: string, options: { discrepancy?: string[]; site: string; json?: boolean }) =>
      withSite(options.site, async (client) => {
        await arrival(client, id);
        const view = await client.post<HandoffView>(
          `/api/v1/handoffs/${encodeURIComponent(id)}/receive`,
          { discrepancies: options.discrepancy ?? [] },
          { timeoutMs: 300_000 },
        );
        if (options.json) return printJson(view);
        print(`${view.count} devices of ${view.lot} received from ${view.peer}`);
      }),
    );

  handoff
    .command("list")
    .description("handoffs of this site, in and out")
    .option("--lot <id>", "of one lot")
    .option("--site <id>", "whose", "technician-z")
    .option("--json", "machine-readable")
    .addHelpText("after", "\nExample:\n  $ countersign handoff list --site factory-y")
    .action((options: { lot?: string; site: string; json?: boolean }) =>
      withSite(options.site, async (client) => {
        const query = options.lot === undefined ? "" : `?lot=${encodeURIComponent(options.lot)}`;
        const { handoffs } = await client.get<{ handoffs: HandoffView[] }>(`/api/v1/handoffs${query}`);
        if (options.json) return printJson(handoffs);
        for (const one of handoffs) {
          const arrow = one.direction === "out" ? "to" : "from";
          const why = one.error === undefined ? "" : `  ${one.error.message}`;
          print(`${one.id}  ${one.state}  ${one.count} of ${one.lot} ${arrow} ${one.peer}${why}`);
        }
      }),
    );
}

/**
 * The release leaves when a quorum of witnesses has cosigned it. It goes on waiting on the site when this gives up.
 * @throws CountersignError `witnesses-missing`
 */
async function released(client: SiteClient, asked: HandoffView): Promise<HandoffView> {
  const path = `/api/v1/handoffs/${encodeURIComponent(asked.id)}`;
  let told = false;
  for (const deadline = Date.now() + RELEASE_MS; ; await new Promise((wake) => setTimeout(wake, 100))) {
    const view = await client.get<HandoffView>(path);
    if (view.state !== "releasing") return view;
    if (view.error?.code === "witnesses-missing" && Date.now() > deadline) {
      const message = `the release ${asked.id} is signed and goes out by itself when it is cosigned: ${view.error.message}`;
      throw new CountersignError("witnesses-missing", message);
    }
    if (!told && view.error?.code === "witnesses-missing") note(`${asked.id}: ${view.error.message}`);
    told ||= view.error !== undefined;
    if (Date.now() > deadline + ARRIVAL_MS) {
      throw new CountersignError("timeout", `the release ${asked.id} isn't signed yet: see the site's log`);
    }
  }
}

/** The envelope may still be on its way. */
async function arrival(client: SiteClient, id: string): Promise<void> {
  for (const deadline = Date.now() + ARRIVAL_MS; ;) {
    try {
      await client.get(`/api/v1/handoffs/${encodeURIComponent(id)}`);
      return;
    } catch (error) {
      if (!isCountersignError(error) || error.code !== "not-found" || Date.now() > deadline) throw error;
    }
    await new Promise((wake) => setTimeout(wake, 250));
  }
}

const collect = (text: string, before: string[] = []): string[] => [...before, text];
