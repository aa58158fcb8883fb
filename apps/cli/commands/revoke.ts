import { InvalidArgumentError, Option, type Command } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { REVOCATION_REASONS } from "../../../lib/records/acts.ts";
import { parseGroupQuery } from "../../../lib/records/group-query.ts";
import { readStackFile } from "../../site/stack/stack-file.ts";
import { devicesOfGroup } from "../evidence/group.ts";
import { ledgerSources } from "../evidence/sources.ts";
import { note, print, printJson, table } from "../output.ts";
import { startProgress } from "../progress.ts";
import { SiteClient, stateFolder } from "../site-client.ts";

interface Options {
  readonly site?: string;
  readonly reason: string;
  readonly lot?: string;
  readonly group?: string;
  readonly ca?: boolean;
  readonly device?: boolean;
  readonly hold?: boolean;
  readonly lift?: boolean;
  readonly since?: Date;
  readonly dryRun?: boolean;
  readonly json?: boolean;
}

interface Ordered {
  readonly id: string;
  readonly target: "device" | "ca" | null;
  readonly serials: readonly string[];
  readonly state: "ordered" | "already" | "unknown" | "refused";
  readonly steps: readonly number[];
  readonly error?: { readonly code: string; readonly message: string };
}

interface Step {
  readonly id: number;
  readonly act: string | null;
  readonly crlNumber: number | null;
  readonly told: string | null;
  /** those that follow no CRL, as far as they were tried */
  readonly hubs: readonly { readonly hub: string; readonly told: string | null }[];
  readonly offlineCa?: boolean;
  readonly error?: { readonly code: string; readonly message: string };
}

type Result = Ordered & { readonly site: string; readonly devices?: number; readonly done?: boolean };

const AT_ONCE = 256;
const DONE_MS = 120_000;
/** A hub that can't be told is told later, and looks by itself. */
const TOLD_MS = 5_000;

const HELP = `
A DEVICE is revoked by the site that certified it, a CA (by its party's ID) by the site that delegated to it; without
--site all sites of the stack are asked. The act lies in that site's ledger under a signed checkpoint, then its CRL says
so, then the hub hears of it. What was revoked before is answered as before. The root's own CRL is signed by "ceremony crl";
until then the hub, of which its party is the operator, is told by a block.

Exit codes: 0 revoked (or would be), 1 something was refused or is nobody's, 3 a site is out of reach.

Example:
  $ countersign revoke dev-00001 --reason keyCompromise --since 2026-07-01T00:00:00Z
  $ countersign revoke technician-z --reason cACompromise --dry-run
  $ countersign revoke --lot lot-7 --hold --site technician-z
  $ countersign revoke --group 'issuer = technician-z and installed > 2026-07-01' --reason superseded
  $ countersign revoke dev-00001 --lift`;

/** `countersign revoke DEVICE|CA`: what its issuer takes back. */
export function registerRevoke(program: Command): void {
  program
    .command("revoke")
    .argument("[target...]", "device IDs, or parties whose CA is taken back")
    .description("revoke certificates, or hold them: an act in the issuer's ledger, its CRL, and the hub")
    .option("--lot <id>", "every certified device of this lot")
    .option("--group <query>", "every certified device that the ledgers say is in this group (docs/groups.md)")
    .addOption(new Option("--reason <why>", "for good, and why").choices(REVOCATION_REASONS).default("unspecified"))
    .option("--since <time>", "since when it isn't to be trusted, where that is earlier", instant)
    .option("--hold", "certificateHold: until it is lifted or revoked for good")
    .option("--lift", "end a hold")
    .option("--ca", "the targets are parties, whatever devices are called")
    .option("--device", "the targets are devices, whatever parties are called")
    .option("--dry-run", "say what would be revoked, and how many devices are below a CA; change nothing")
    .option("--site <id>", "the issuer's site")
    .option("--json", "machine-readable")
    .addHelpText("after", HELP)
    .action((targets: string[], options: Options) => revoke(targets, options));
}

async function revoke(targets: readonly string[], options: Options): Promise<void> {
  if (options.hold && options.lift) throw new CountersignError("usage", "--hold and --lift exclude each other");
  const ids = [...new Set([...targets, ...(await devicesOf(options))])];
  if (ids.length === 0) {
    if (options.lot === undefined && options.group === undefined)
      throw new CountersignError("usage", "name a device, a party, --lot or --group");
    throw new CountersignError("not-found", "there is no certified device in it");
  }
  const sites =
    options.site === undefined ? (await readStackFile(stateFolder())).sites.map(({ id }) => id) : [options.site];
  const results = new Map<string, Result>();
  for (const site of sites) {
    const open = ids.filter((id) => (results.get(id)?.state ?? "unknown") === "unknown");
    if (open.length === 0) break;
    const client = await SiteClient.open(site);
    try {
      for (const result of await revokeAt(client, open, options)) results.set(result.id, result);
    } finally {
      client.close();
    }
  }
  const all = [...results.values()];
  const counted = options.dryRun ? await Promise.all(all.map(withDevices)) : all;
  show(counted, options);
  const bad = counted.find(({ state }) => state === "unknown" || state === "refused");
  if (bad === undefined) return;
  const where = options.site ?? "any of the sites";
  const { code, message } = bad.error ?? { code: "not-found", message: `${bad.id}: ${where} issued nothing to it` };
  throw new CountersignError(code as "not-found", message);
}

async function devicesOf({ lot, group }: Options): Promise<string[]> {
  const queries = [...(lot === undefined ? [] : [`lot = "${lot}"`]), ...(group === undefined ? [] : [`(${group})`])];
  if (queries.length === 0) return [];
  const found = await devicesOfGroup(await ledgerSources(undefined), parseGroupQuery(queries.join(" and ")));
  return found.flatMap(({ device, certified }) => (device === undefined || certified === undefined ? [] : [device]));
}

async function revokeAt(client: SiteClient, ids: readonly string[], options: Options): Promise<Result[]> {
  const effect = options.hold ? "hold" : options.lift ? "lift" : "final";
  const kind = options.ca ? { kind: "ca" } : options.device ? { kind: "device" } : {};
  const results: Result[] = [];
  const progress = process.stderr.isTTY && ids.length > AT_ONCE ? startProgress("revoke", ids.length) : undefined;
  for (let at = 0; at < ids.length; at += AT_ONCE) {
    const targets = ids.slice(at, at + AT_ONCE).map((id) => ({ id, ...kind }));
    const order = {
      ...{ targets, effect, reason: options.reason, dryRun: options.dryRun === true },
      ...(options.since === undefined ? {} : { invalidity: options.since.toISOString() }),
    };
    const answer = await client.post<{ results: Ordered[] }>("/api/v1/revocations", order);
    const ordered = answer.results.map((result) => ({ ...result, site: client.party }));
    if (options.dryRun) results.push(...ordered);
    else for (const result of ordered) results.push(await finished(client, result));
    progress?.update(results.length);
  }
  progress?.finish();
  return results;
}

/** Waits until the CRL says it, and for a moment until the hubs have heard of it. */
async function finished(client: SiteClient, result: Result): Promise<Result> {
  if (result.steps.length === 0) return result;
  const path = `/api/v1/revocations?steps=${result.steps.join(",")}`;
  const until = (done: (step: Step) => boolean, timeoutMs: number): Promise<{ revocations: Step[] }> =>
    client.poll<{ revocations: Step[] }>(
      path,
      ({ revocations }) => revocations.every((one) => one.error !== undefined || done(one)),
      {
        ...{ timeoutMs, everyMs: 50, what: `the revocation of ${result.id}` },
      },
    );
  const { revocations } = await until(
    (one) => one.act !== null && (one.crlNumber !== null || one.offlineCa === true),
    DONE_MS,
  );
  const refused = revocations.find(({ error }) => error !== undefined);
  if (refused?.error !== undefined) return { ...result, state: "refused", error: refused.error };
  try {
    const told = await until((one) => one.told !== null, TOLD_MS);
    const away = told.revocations.flatMap(({ hubs }) => hubs.flatMap((one) => (one.told === null ? [one.hub] : [])));
    for (const hub of new Set(away)) note(`the hub ${hub} isn't told yet: the site goes on telling it`);
    return { ...result, done: true };
  } catch (error) {
    if (!(error instanceof CountersignError) || error.code !== "timeout") throw error;
    note("a hub isn't told yet: it is told again, and looks at the CRL by itself");
    return { ...result, done: false };
  }
}

/** How many devices are below a CA, by what the ledgers say. */
async function withDevices(result: Result): Promise<Result> {
  if (result.target !== "ca") return result;
  const below = await devicesOfGroup(await ledgerSources(undefined), parseGroupQuery(`under "${result.id}"`));
  return { ...result, devices: below.length };
}

function show(results: readonly Result[], options: Options): void {
  if (options.json) return printJson({ dryRun: options.dryRun === true, results });
  const words = {
    ordered: options.dryRun ? "would be" : "done",
    already: "already",
    unknown: "unknown",
    refused: "refused",
  };
  const rows = results.map(({ id, target, site, serials, state, devices, error }) => [
    id,
    target === "ca" ? `CA${devices === undefined ? "" : `, ${devices} devices below`}` : (target ?? "-"),
    target === null ? "-" : site,
    serials.join(" ") || "-",
    error?.message ?? words[state],
  ]);
  print(
    table([
      ["TARGET", "WHAT", "ISSUER", "SERIAL", options.lift ? "LIFTED" : options.hold ? "HELD" : "REVOKED"],
      ...rows,
    ]),
  );
}

function instant(text: string): Date {
  const at = new Date(text);
  if (!/^\d{4}-\d{2}-\d{2}/.test(text) || Number.isNaN(at.getTime())) {
    throw new InvalidArgumentError("expected a time such as 2026-07-01T00:00:00Z");
  }
  return at;
}
