import type { Command } from "commander";
import { fromBase64 } from "../../../lib/domain/bytes.ts";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { parseCertificate } from "../../../lib/pki/certificate.ts";
import type { Act, AnyAct } from "../../../lib/records/statement.ts";
import { deviceHistory, type HistoryEvent } from "../evidence/history.ts";
import { ledgerSources } from "../evidence/sources.ts";
import { readOpenings } from "../evidence/openings.ts";
import { paint, print, printJson } from "../output.ts";

export function registerTrace(program: Command): void {
  program
    .command("trace")
    .description("a device's history, from the ledgers")
    .argument("<device>", "device ID, or the serial number of its certificate in hex")
    .option("--from <dir>", "read the ledgers of an output folder instead of the running sites")
    .option("--site <id>", "only what this party's ledger holds")
    .option("--opening <file>", "values that the device's holder shows (`countersign openings`)")
    .option("--json", "print the acts as JSON")
    .addHelpText("after", "\nExample:\n  $ countersign trace dev-1-0001 --from out")
    .action(async (device: string, options: { from?: string; site?: string; opening?: string; json?: boolean }) => {
      const { from, site } = options;
      const sources = await ledgerSources(from);
      if (site !== undefined && !sources.some((one) => one.party === site))
        throw new CountersignError("not-found", `there is no ledger of ${JSON.stringify(site)} here`);
      const history = await deviceHistory(sources, device);
      const events = history.filter((event) => site === undefined || event.party === site);
      if (events.length === 0)
        throw new CountersignError("not-found", `no ledger knows a device or serial number ${JSON.stringify(device)}`);
      const shown = new Map<string, unknown>();
      if (options.opening !== undefined) {
        for (const one of (await readOpenings(options.opening)).openings) shown.set(one.commitment, one.value);
        assertLogged(shown, events, options.opening);
      }
      if (options.json) {
        return printJson(
          events.map(({ index, leafHash, act }) => ({ index, leafHash, ...act, ...openedBy(act, shown) })),
        );
      }
      for (const { party, index, act } of events) {
        print(
          `${act.time}  ${party.padEnd(14)} ${paint("bold", act.type.padEnd(16))} ${describe(act)}${told(act, shown)} ${paint("dim", `#${index}`)}`,
        );
      }
    });
}

/** A value that no act commits to is nobody's: it would look like evidence. */
function assertLogged(shown: ReadonlyMap<string, unknown>, events: readonly HistoryEvent[], file: string): void {
  const committed = new Set(events.flatMap(({ act }) => (act.type === "installed" ? commitments(act) : [])));
  if ([...shown.keys()].every((one) => committed.has(one))) return;
  throw new CountersignError("opening-invalid", `${file} opens a commitment that none of the device's acts holds`);
}

const commitments = ({ fields }: Act<"installed">): string[] => [fields.place, fields.time];

function openedBy(act: AnyAct, shown: ReadonlyMap<string, unknown>): { opened?: Record<string, unknown> } {
  if (act.type !== "installed" || !commitments(act).some((one) => shown.has(one))) return {};
  const { place, time } = act.fields;
  return {
    opened: {
      ...(shown.has(place) ? { place: shown.get(place) } : {}),
      ...(shown.has(time) ? { time: shown.get(time) } : {}),
    },
  };
}

function told(act: AnyAct, shown: ReadonlyMap<string, unknown>): string {
  const { opened = {} } = openedBy(act, shown);
  return Object.entries(opened)
    .map(([name, value]) => `, ${name} ${JSON.stringify(value)}`)
    .join("");
}

function describe(act: AnyAct): string {
  switch (act.type) {
    case "built":
      return `lot ${act.fields.lot} slot ${act.fields.slot}, key ${act.subject[0]!.digest.sha256.slice(0, 16)}`;
    case "handoff-released":
      return `${act.fields.count} devices to ${act.fields.to} (${act.fields.id})`;
    case "handoff-received":
      return `${act.fields.count} devices from ${act.fields.from} (${act.fields.id})`;
    case "attested": {
      const { tpm, key } = act.fields;
      return `key made in a TPM 2 (${tpm.manufacturer} ${tpm.model} ${tpm.version}), name ${key.slice(0, 20)}`;
    }
    case "certified":
      return `${act.fields.profile.name}, serial ${parseCertificate(fromBase64(act.fields.certificate)).serial}`;
    case "injected":
      return `${act.fields.receipt.format}, image ${act.fields.receipt.image.sha256.slice(0, 16)}, read back`;
    case "installed":
      return `by technician ${act.fields.technician.slice(0, 16)}`;
    default:
      return "";
  }
}
