import { setTimeout as sleep } from "node:timers/promises";
import type { Command } from "commander";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { ERROR_KINDS, type ErrorCode } from "../../../lib/domain/error-codes.ts";
import { note, print, printJson, table } from "../output.ts";
import { SiteClient } from "../site-client.ts";

/** Hubs of a site's configuration, Azure's among them: the site drives them, `--hub NAME` says which. */
export interface Elsewhere {
  hub?: string;
  site?: string;
  dryRun?: boolean;
  json?: boolean;
}

interface Run {
  state: "requested" | "done" | "registered" | "refused";
  answer?: Record<string, unknown>;
  code?: string;
  message?: string;
  error?: { code: string; message: string };
}
interface Planned {
  requests: { method: string; url: string; ifMatch?: string; body?: unknown }[];
}
interface CaAt {
  place: string;
  name: string;
  verified: boolean;
  thumbprint?: { algorithm: string; value: string };
}

const WAIT_MS = 600_000;
const EVERY_MS = 500;

/** `--hub`, `--site` and where something is written `--dry-run`. */
export function elsewhereOptions(command: Command, writes = true): Command {
  command
    .option("--hub <name>", "a hub of the site's configuration, Azure's for example, instead of the embedded one")
    .option("--site <id>", "with --hub: the site that drives it", "factory-y");
  if (writes) command.option("--dry-run", "with --hub: print the requests that would be sent, and send none");
  return command;
}

/** Has the site make one change there, and waits for it: a throttled hub only takes longer. */
export async function changeElsewhere(
  options: Elsewhere,
  change: { kind: string; subject: string; line?: string },
): Promise<void> {
  const hub = hubOf(options);
  await withSite(options, async (site) => {
    const dryRun = options.dryRun === true;
    const begun = await site.post<Planned>(`/api/v1/hubs/${hub}/changes`, { change, dryRun });
    if (dryRun) return printPlan(begun, options);
    const path = `/api/v1/hubs/${hub}/changes/${change.kind}/${encodeURIComponent(change.subject)}`;
    const { answer = {} } = await waitFor(site, path, `${change.kind} ${change.subject} at ${hub}`);
    show(answer, options);
  });
}

/** Registers the site's own CA: uploaded, the hub's codes signed by its HSM key, verified. */
export async function registerElsewhere(line: string, options: Elsewhere): Promise<void> {
  const hub = options.hub ?? "embedded";
  await withSite(options, async (site) => {
    const dryRun = options.dryRun === true;
    const begun = await site.post<Planned>(`/api/v1/hubs/${hub}/lines`, { line, dryRun });
    if (dryRun) return printPlan(begun, options);
    const run = await waitFor(site, `/api/v1/hubs/${hub}/lines/${encodeURIComponent(line)}`, `${line} at ${hub}`);
    if (options.json) return printJson(run);
    const { name, caSha256 } = run as unknown as { name: string; caSha256: string };
    print(`${name} is verified at ${hub}: ${caSha256}`);
  });
}

/** Uploads the site's offline root, and writes the codes that its token is to sign: `ceremony prove` takes them. */
export async function codesElsewhere(name: string, options: Elsewhere): Promise<void> {
  const hub = hubOf(options);
  await withSite(options, async (site) => {
    const change = { kind: "offer-ca", subject: name };
    const dryRun = options.dryRun === true;
    const begun = await site.post<Planned>(`/api/v1/hubs/${hub}/changes`, { change, dryRun });
    if (dryRun) return printPlan(begun, options);
    const path = `/api/v1/hubs/${hub}/changes/${change.kind}/${encodeURIComponent(name)}`;
    const { answer = {} } = await waitFor(site, path, `the codes for ${name} at ${hub}`);
    if (answer["state"] === "verified") {
      if (options.json) return printJson(answer);
      return note(`${name} is verified at ${hub} already: there is nothing to sign`);
    }
    printJson(await site.get(`/api/v1/hubs/${hub}/offers/${encodeURIComponent(name)}`));
    note("have the root sign these: countersign ceremony prove FILE");
  });
}

export async function showElsewhere(path: string, options: Elsewhere): Promise<void> {
  await withSite(options, async (site) => {
    show(await site.get<Record<string, unknown>>(`/api/v1/hubs/${hubOf(options)}/${path}`), options);
  });
}

export async function listCasElsewhere(options: Elsewhere): Promise<void> {
  await withSite(options, async (site) => {
    const { cas } = await site.get<{ cas: CaAt[] }>(`/api/v1/hubs/${hubOf(options)}/cas`);
    if (options.json) return printJson(cas);
    const rows = cas.map(({ place, name, verified, thumbprint }) => [
      name,
      verified ? "verified" : "unverified",
      place,
      thumbprint === undefined ? "-" : `${thumbprint.algorithm}:${thumbprint.value}`,
    ]);
    print(table([["NAME", "STATE", "PLACE", "THUMBPRINT"], ...rows]));
  });
}

function hubOf({ hub }: Elsewhere): string {
  if (hub !== undefined && /^[a-z0-9][a-z0-9-]{0,31}$/.test(hub)) return hub;
  throw new CountersignError("usage", "name a hub of the site's configuration by --hub");
}

async function withSite(options: Elsewhere, work: (site: SiteClient) => Promise<void>): Promise<void> {
  const site = await SiteClient.open(options.site ?? "factory-y");
  try {
    await work(site);
  } finally {
    site.close();
  }
}

async function waitFor(site: SiteClient, path: string, what: string): Promise<Run> {
  const deadline = Date.now() + WAIT_MS;
  let told: string | undefined;
  for (;;) {
    const run = await site.get<Run>(path);
    if (run.state === "refused") throw refusal(run);
    if (run.state !== "requested") return run;
    const held = run.error;
    if (held !== undefined && held.message !== told) note(`${what}: ${(told = held.message)}; trying again`);
    if (Date.now() > deadline)
      throw new CountersignError("timeout", `${what} isn't done yet; the site goes on with it`);
    await sleep(EVERY_MS);
  }
}

function refusal({ code = "internal", message = "refused" }: Run): CountersignError {
  return new CountersignError(Object.hasOwn(ERROR_KINDS, code) ? (code as ErrorCode) : "internal", message);
}

function printPlan({ requests }: Planned, options: Elsewhere): void {
  if (options.json) return printJson(requests);
  for (const { method, url, ifMatch, body } of requests) {
    print(`${method} ${url}${ifMatch === undefined ? "" : `\n  If-Match: ${ifMatch}`}`);
    if (body !== undefined) print(`  ${JSON.stringify(body)}`);
  }
}

function show(answer: Record<string, unknown>, options: Elsewhere): void {
  if (options.json) return printJson(answer);
  for (const [name, value] of Object.entries(answer)) print(`${name.padEnd(12)} ${String(value)}`);
}
