import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { CountersignError, isCountersignError } from "../../../lib/domain/errors.ts";
import type { GrantTerms } from "../../../lib/records/grant.ts";
import { draftCeremony } from "../ceremony-draft.ts";
import { runCeremony } from "../ceremony-run.ts";
import { HubClient } from "../hub-client.ts";
import { step } from "../progress.ts";
import { SiteClient } from "../site-client.ts";
import { poll } from "./poll.ts";

/** The example's chain of parties. Every step is skipped where it has been taken before. */

const HUB_CA = "company-x-root";
const YEAR_MS = 365 * 86_400_000;

export interface ChainPlan {
  readonly idPrefixes: readonly string[];
  readonly quota: number;
}

interface DelegationView {
  readonly state: "joined" | "issued" | "accepted" | "refused";
  readonly error?: { readonly code: string; readonly message: string };
}

export async function buildChain(home: string, plan: ChainPlan): Promise<void> {
  await delegateToFactory(home, plan);
  await delegateToTechnician(home, plan);
}

/** Company-X's root, Factory-Y's CA under it, and the root at the hub. */
export async function delegateToFactory(home: string, plan: ChainPlan): Promise<void> {
  const [x, y] = await Promise.all(["company-x", "factory-y"].map((id) => SiteClient.open(id, { home })));
  const hub = await HubClient.open(home);
  try {
    if ((await delegationTo(x!, y!.party))?.state !== "accepted") {
      await step("Factory-Y joins Company-X: keys in its own tokens, a CSR with the invitation's nonce", () =>
        join_(x!, y!),
      );
      await step("Root ceremony: root, Factory-Y's CA, CRL and hub verification in one sitting", () =>
        ceremony(home, x!, hub, plan),
      );
      await step("Factory-Y checks what it got and accepts its grant", () => accepted(x!, y!.party));
    }
    await registerHub(x!, hub);
  } finally {
    for (const client of [x!, y!, hub]) client.close();
  }
}

async function delegateToTechnician(home: string, plan: ChainPlan): Promise<void> {
  const [y, z] = await Promise.all(["factory-y", "technician-z"].map((id) => SiteClient.open(id, { home })));
  try {
    if ((await delegationTo(y!, z!.party))?.state !== "accepted") {
      await step("Technician-Z joins Factory-Y", () => join_(y!, z!));
      await step("Factory-Y signs Technician-Z's CA under its own grant", async () => {
        const grant = termsOf(plan, {
          pathLen: 0,
          depth: 0,
          mayBuild: false,
          quota: Math.floor(plan.quota / 2),
          years: 4,
        });
        await y!.post("/api/v1/delegations", { to: z!.party, grant });
        await accepted(y!, z!.party);
      });
    }
  } finally {
    for (const client of [y!, z!]) client.close();
  }
}

function termsOf(
  plan: ChainPlan,
  own: Pick<GrantTerms, "pathLen" | "depth" | "mayBuild" | "quota"> & { years: number },
): GrantTerms {
  const now = Date.now();
  return {
    idPrefixes: [...plan.idPrefixes],
    profiles: ["idevid", "ldevid"],
    quota: own.quota,
    notBefore: new Date(now - 3_600_000).toISOString(),
    notAfter: new Date(now + own.years * YEAR_MS).toISOString(),
    pathLen: own.pathLen,
    depth: own.depth,
    mayBuild: own.mayBuild,
    caProfile: "intermediate-embedded",
  };
}

async function delegationTo(parent: SiteClient, child: string): Promise<DelegationView | undefined> {
  try {
    return await parent.get<DelegationView>(`/api/v1/delegations/${child}`);
  } catch (error) {
    if (isCountersignError(error) && error.code === "not-found") return undefined;
    throw error;
  }
}

async function join_(parent: SiteClient, child: SiteClient): Promise<void> {
  if (await delegationTo(parent, child.party)) return;
  const invitation = await parent.post("/api/v1/invitations", { to: child.party });
  await child.post("/api/v1/joins", { invitation });
  await poll(`${child.party}'s request to reach ${parent.party}`, () => delegationTo(parent, child.party));
}

async function accepted(parent: SiteClient, child: string): Promise<void> {
  await poll(`${child} to accept its grant`, async () => {
    const view = await delegationTo(parent, child);
    if (view?.state === "refused") {
      throw new CountersignError(
        "state-conflict",
        `the delegation to ${child} was refused: ${view.error?.message ?? "see its log"}`,
      );
    }
    return view?.state === "accepted";
  });
}

async function ceremony(home: string, root: SiteClient, hub: HubClient, plan: ChainPlan): Promise<void> {
  const { code } = await hub.offerCa(HUB_CA);
  if (code === undefined) throw new CountersignError("state-conflict", `the hub gives no code for ${HUB_CA}`);
  const grant = termsOf(plan, { pathLen: 1, depth: 1, mayBuild: true, quota: plan.quota, years: 5 });
  const yaml = await draftCeremony(root, { hub: { name: HUB_CA, code }, grants: { "factory-y": grant } });
  const file = join(home, "company-x", "ceremony.yaml");
  await writeFile(file, yaml, { mode: 0o600 });
  await runCeremony(file, { party: root.party, home });
}

async function registerHub(root: SiteClient, hub: HubClient): Promise<void> {
  if ((await hub.cas()).some((ca) => ca.name === HUB_CA && ca.state === "verified")) return;
  await step("The hub registers the root: its code, signed by the root key", async () => {
    await root.post("/api/v1/hub-registrations", { name: HUB_CA });
    const { state, error } = await root.poll<{ state: string; error?: { message: string } }>(
      `/api/v1/hub-registrations/${HUB_CA}`,
      (view) => view.state === "registered" || view.state === "refused",
      { what: "the hub's verification of the root" },
    );
    if (state === "refused") {
      throw new CountersignError("hub-ca-not-verified", error?.message ?? "the hub refused the root");
    }
  });
}
