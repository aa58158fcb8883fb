import { readFile } from "node:fs/promises";
import { InvalidArgumentError, type Command } from "commander";
import { parse } from "yaml";
import { ZodError } from "zod";
import { CountersignError, isCountersignError } from "../../../lib/domain/errors.ts";
import { grantTerms } from "../../../lib/records/grant.ts";
import { invitation as invitationSchema } from "../../../lib/records/message.ts";
import { issueOf } from "../failure.ts";
import { note, print, printJson, quoted, table } from "../output.ts";
import { SiteClient } from "../site-client.ts";

/** `countersign party ...` and `countersign delegate`: who exchanges with whom, and who may sign for whom. */

interface SiteOption {
  site: string;
  json?: boolean;
}
interface PartyView {
  party: string;
  direction: "parent" | "child";
  gateway: string;
  origin: string;
  delegation?: DelegationView;
  enrolment?: { state: string; error?: { code: string; message: string } };
}
interface DelegationView {
  child: string;
  state: "joined" | "issued" | "accepted" | "refused";
  csrSha256: string;
  revision?: number;
  error?: { code: string; message: string };
}
interface SiteView {
  party: string;
  name: string;
  role: string;
  parent: string | null;
  children: string[];
  ledger: { size: number };
  grant: { quota: number; used: number; notAfter: string } | null;
}

const WAIT_MS = 60_000;

export function registerParty(program: Command): void {
  const party = program.command("party").description("the parties a site exchanges envelopes with");

  withSite(party.command("list"))
    .description("the parties this site knows")
    .addHelpText("after", "\nExample:\n  $ countersign party list --site factory-y")
    .action((options: SiteOption) =>
      withClient(options.site, async (client) => {
        const { parties } = await client.get<{ parties: PartyView[] }>("/api/v1/parties");
        if (options.json) return printJson(parties);
        const rows = parties.map((one) => [one.party, one.direction, one.gateway, one.origin]);
        print(table([["PARTY", "IS OUR", "GATEWAY", "LEDGER"], ...rows]));
      }),
    );

  withSite(party.command("show").argument("<id>", "party ID"))
    .description("one party: its addresses, its ledger, and what was delegated to it")
    .addHelpText("after", "\nExample:\n  $ countersign party show factory-y")
    .action((id: string, options: SiteOption) =>
      withClient(options.site, async (client) => {
        const own = id === client.party;
        const view = await client.get<PartyView>(own ? "/api/v1/site" : `/api/v1/parties/${encodeURIComponent(id)}`);
        if (options.json) return printJson(view);
        const shown = Object.entries(view).filter(([, value]) => typeof value === "string" && !value.includes("\n"));
        print(table(shown.map(([key, value]) => [key, String(value)])));
        const { delegation, enrolment } = view;
        if (delegation) print(`delegation  ${delegation.state}, request ${delegation.csrSha256}${why(delegation)}`);
        if (enrolment) print(`enrolment   ${enrolment.state}${why(enrolment)}`);
      }),
    );

  withSite(party.command("tree"))
    .description("the parties from the top down, as far as their sites are on this machine")
    .addHelpText("after", "\nExample:\n  $ countersign party tree")
    .action((options: SiteOption) => showTree(options));

  withSite(party.command("invite").argument("<id>", "party ID of the invited"))
    .description("make an invitation; hand the file over yourself, it holds a secret that is good once")
    .option("--days <n>", "how long it is good", days, 7)
    .addHelpText("after", "\nExample:\n  countersign party invite factory-y --site company-x > invitation.json\n")
    .action((id: string, options: SiteOption & { days: number }) =>
      withClient(options.site, async (client) => {
        printJson(await client.post("/api/v1/invitations", { to: id, days: options.days }));
      }),
    );

  withSite(party.command("join").argument("<file>", "the invitation"))
    .description("take an invitation: make the CA key and its request, and ask the inviting party for a grant")
    .addHelpText("after", "\nExample:\n  $ countersign party join invitation.json --site factory-y")
    .action((file: string, options: SiteOption) =>
      withClient(options.site, async (client) => {
        const invitation = await readData(file, "the invitation", (data) => invitationSchema.parse(data));
        await client.post("/api/v1/joins", { invitation });
        const parent = invitation.from.party;
        const joined = await client.poll<{ asked: { parent: string; state: string; error?: { message: string } }[] }>(
          "/api/v1/joins",
          ({ asked }) => asked.some((one) => one.parent === parent && one.state !== "invited"),
          { timeoutMs: WAIT_MS, what: `joining ${parent}` },
        );
        const mine = joined.asked.find((one) => one.parent === parent);
        if (mine?.state === "refused") {
          throw new CountersignError(
            "invitation-invalid",
            `${parent} refused: ${mine.error?.message ?? "no reason given"}`,
          );
        }
        if (options.json) return printJson(mine);
        print(`asked ${parent} for a grant; it is delegated there, or in its ceremony`);
      }),
    );

  withSite(party.command("renew").argument("<id>", "the child"))
    .description(
      "sign a child's CA certificate anew, for the same key; its hubs get the new one, the old one stays good",
    )
    .option("--until <time>", "until when its grant lasts from now on, RFC 3339; as before unless given")
    .addHelpText("after", "\nExample:\n  $ countersign party renew technician-z --site factory-y")
    .action((id: string, options: SiteOption & { until?: string }) =>
      withClient(options.site, async (client) => {
        const done = await settleRenewal(client, id, options.until === undefined ? undefined : instant(options.until));
        if (options.json) return printJson(done);
        print(`${id} accepted revision ${done.revision ?? "?"} of its grant, with a new certificate`);
      }),
    );

  program
    .command("delegate")
    .description("let a party that joined sign devices under this site's own grant")
    .option("--from <id>", "the delegating site")
    .option("--site <id>", "the same as --from")
    .requiredOption("--to <id>", "the party that joined")
    .requiredOption(
      "--grant <file>",
      "terms, JSON or YAML: idPrefixes, profiles, quota, notBefore, notAfter, pathLen, depth, mayBuild",
    )
    .option("--json", "machine-readable")
    .addHelpText(
      "after",
      "\nExample:\n  $ countersign delegate --from factory-y --to technician-z --grant grant.yaml\n\ngrant.yaml:\n" +
        "  idPrefixes: [dev-]\n  profiles: [ldevid]\n  quota: 100000\n  notBefore: 2026-01-01T00:00:00.000Z\n" +
        "  notAfter: 2030-01-01T00:00:00.000Z\n  pathLen: 0\n  depth: 0\n  mayBuild: false\n  caProfile: intermediate-embedded",
    )
    .action((options: { from?: string; site?: string; to: string; grant: string; json?: boolean }) =>
      withClient(delegator(options), async (client) => {
        const grant = await readData(options.grant, "the grant", (data) => grantTerms.parse(data));
        await client.post("/api/v1/delegations", { to: options.to, grant });
        const done = await client.poll<DelegationView>(
          `/api/v1/delegations/${encodeURIComponent(options.to)}`,
          isSettled,
          { timeoutMs: WAIT_MS, what: `the delegation to ${options.to}` },
        );
        if (done.state !== "accepted") {
          throw new CountersignError(
            "state-conflict",
            `not delegated to ${options.to}: ${done.error?.message ?? "refused"}`,
          );
        }
        if (options.json) return printJson(done);
        print(`${options.to} accepted its grant`);
      }),
    );
}

/** Refused by our own site, or by the child, who keeps what it has. */
function isSettled({ state, error }: DelegationView): boolean {
  return state === "accepted" || state === "refused" || (state === "issued" && error !== undefined);
}

function why({ error }: { error?: { code: string; message: string } }): string {
  return error === undefined ? "" : `; the last one was refused: ${quoted(error.message)} [${quoted(error.code)}]`;
}

/** Has the site renew a child, or record and send what its offline root has signed, and waits for the child. */
export async function settleRenewal(client: SiteClient, id: string, notAfter?: string): Promise<DelegationView> {
  const path = `/api/v1/delegations/${encodeURIComponent(id)}`;
  await client.post<DelegationView>(`${path}/renewals`, notAfter === undefined ? {} : { notAfter });
  const what = `the renewal of ${id}`;
  const done = await client.poll<DelegationView>(path, isSettled, { timeoutMs: WAIT_MS, what });
  if (done.state === "accepted") return done;
  throw new CountersignError("state-conflict", `${id} isn't renewed: ${done.error?.message ?? "refused"}`);
}

function delegator({ from, site }: { from?: string; site?: string }): string {
  if (from !== undefined && site !== undefined && from !== site) {
    throw new CountersignError("usage", `--from ${from} and --site ${site} are two sites: name one`);
  }
  const id = from ?? site;
  if (id === undefined) throw new CountersignError("usage", "name the delegating site with --from");
  return id;
}

export function instant(text: string): string {
  const time = new Date(text);
  if (!Number.isNaN(time.getTime())) return time.toISOString();
  throw new CountersignError("usage", `${JSON.stringify(text)} is no time, such as 2031-01-01T00:00:00Z`);
}

function days(text: string): number {
  if (!/^[1-9]\d{0,3}$/.test(text)) throw new InvalidArgumentError("expected a number of days, 1 or more");
  return Number(text);
}

function withSite(command: Command): Command {
  return command
    .option("--site <id>", "the site to ask", process.env["COUNTERSIGN_SITE"] ?? "company-x")
    .option("--json", "machine-readable");
}

async function withClient(site: string, work: (client: SiteClient) => Promise<void>): Promise<void> {
  const client = await SiteClient.open(site);
  try {
    await work(client);
  } finally {
    client.close();
  }
}

async function readData<T>(file: string, what: string, check: (data: unknown) => T): Promise<T> {
  try {
    // YAML's core schema reads JSON too.
    return check(parse(await readFile(file, "utf8"), { schema: "core", maxAliasCount: 0 }));
  } catch (cause) {
    const why = cause instanceof ZodError ? issueOf(cause) : ((cause as Error).message.split("\n")[0] ?? "");
    throw new CountersignError("input-invalid", `${file} doesn't hold ${what}: ${why}`, { cause });
  }
}

interface Branch {
  party: string;
  name?: string;
  role?: string;
  acts?: number;
  grant?: SiteView["grant"];
  children: Branch[];
}

async function showTree(options: SiteOption): Promise<void> {
  let top = options.site;
  // A site knows its parent; where the parent's site isn't ours to ask, the tree begins here.
  for (let depth = 0; depth < 16; depth++) {
    const parent = (await siteView(top))?.parent;
    if (!parent || !(await siteView(parent))) break;
    top = parent;
  }
  const tree = await branch(top, 16);
  if (tree.name === undefined)
    throw new CountersignError("component-missing", `there is no site ${top} on this machine`);
  if (options.json) return printJson(tree);
  for (const line of lines(tree, "", "")) print(line);
  note("devices used of the grant's quota in brackets");
}

async function siteView(party: string): Promise<SiteView | undefined> {
  try {
    const client = await SiteClient.open(party);
    try {
      return await client.get<SiteView>("/api/v1/site");
    } finally {
      client.close();
    }
  } catch (error) {
    if (isCountersignError(error) && error.kind === "unavailable") return undefined;
    throw error;
  }
}

async function branch(party: string, depth: number): Promise<Branch> {
  const view = depth > 0 ? await siteView(party) : undefined;
  if (!view) return { party, children: [] };
  const children = await Promise.all(view.children.map((child) => branch(child, depth - 1)));
  return { party, name: view.name, role: view.role, acts: view.ledger.size, grant: view.grant, children };
}

function* lines(node: Branch, lead: string, childLead: string): Generator<string> {
  const quota = node.grant ? ` [${node.grant.used}/${node.grant.quota}]` : "";
  yield `${lead}${node.party}${node.role === undefined ? " (elsewhere)" : `, ${node.role}, ${node.acts ?? 0} acts${quota}`}`;
  for (const [i, child] of node.children.entries()) {
    const last = i === node.children.length - 1;
    yield* lines(child, `${childLead}${last ? "└─ " : "├─ "}`, `${childLead}${last ? "   " : "│  "}`);
  }
}
