import { Client, Connection, type WorkflowClient } from "@temporalio/client";
import { ApplicationFailure } from "@temporalio/common";
import { DefaultLogger, NativeConnection, Runtime, Worker } from "@temporalio/worker";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { workflowBundle } from "../apps/site/workflow-bundle.ts";
import {
  acceptanceArrived,
  asked,
  delegationArrived,
  invited,
  joinRefused,
  workflowIds,
  type AcceptanceActivities,
  type DelegationActivities,
  type HubRegistrationActivities,
  type RevocationActivities,
  type RotationActivities,
} from "../contracts/parties.ts";
import {
  hubWorkflowIds,
  type HubChangeActivities,
  type HubLineActivities,
  type HubRevocationActivities,
} from "../contracts/hubs.ts";
import { QUEUES } from "../contracts/queues.ts";
import { saveHistory } from "../test/support/histories.ts";
import { testTemporal } from "../test/support/index.ts";

/**
 * The orders of events that a site meets only by chance: what the activities do is scripted, workflows and server are
 * the real ones.
 */

type Activities = AcceptanceActivities &
  DelegationActivities &
  HubRegistrationActivities &
  RevocationActivities &
  RotationActivities &
  HubLineActivities &
  HubRevocationActivities &
  HubChangeActivities;

/** What was called, in order. */
let calls: string[];
let script: Partial<Activities>;
let workflows: WorkflowClient;
let stop: () => Promise<void>;

const answers: Activities = {
  prepareRequest: async () => ({ csrSha256: "00" }),
  recordKeyset: async () => ({ leafHash: "01" }),
  sendJoin: async () => undefined,
  refuseJoin: async () => undefined,
  acceptGrant: async () => ({ grant: "02" }),
  refuseGrant: async () => undefined,
  recordAcceptance: async () => ({ leafHash: "03" }),
  publishCrl: async () => undefined,
  prepareDelegation: async () => ({ intent: "delegation/x" }),
  signDelegation: async () => ({ certificateSha256: "04" }),
  recordDelegation: async () => ({ leafHash: "05" }),
  sendDelegation: async () => undefined,
  refuseDelegation: async () => undefined,
  confirmAcceptance: async () => undefined,
  proveCaToHub: async () => ({ caSha256: "06" }),
  recordHubRegistration: async () => ({ leafHash: "07" }),
  refuseHubRegistration: async () => undefined,
  registerCa: async () => ({ name: "factory-y", caSha256: "08" }),
  followEnrollments: async () => undefined,
  recordCaRegistration: async () => undefined,
  refuseCaRegistration: async () => undefined,
  changeHub: async () => ({ deviceId: "dev-1", state: "disabled" }),
  sendRotation: async () => undefined,
  refuseRotation: async () => undefined,
  recordRevocations: async () => ({ left: false }),
  publishRevocations: async () => undefined,
  tellHubs: async () => ({ left: false }),
  tellHubRevocations: async () => ({ left: false }),
};

beforeAll(async () => {
  Runtime.install({ logger: new DefaultLogger("ERROR") });
  const { address, namespace } = await testTemporal();
  const native = await NativeConnection.connect({ address });
  const activities = Object.fromEntries(
    Object.keys(answers).map((name) => [
      name,
      async (input: unknown) => {
        calls.push(name);
        const perform = (script[name as keyof Activities] ?? answers[name as keyof Activities]) as (
          i: unknown,
        ) => unknown;
        return perform(input);
      },
    ]),
  );
  const worker = await Worker.create({
    connection: native,
    namespace,
    taskQueue: QUEUES.site,
    workflowBundle: { codePath: await workflowBundle() },
    activities,
  });
  const running = worker.run();
  const connection = await Connection.connect({ address });
  workflows = new Client({ connection, namespace }).workflow;
  stop = async () => {
    worker.shutdown();
    await running;
    await native.close();
    await connection.close();
  };
}, 60_000);
afterAll(() => stop?.());
beforeEach(() => {
  calls = [];
  script = {};
});

const refusal = { code: "invitation-spent", message: "the invitation was used already" };
const refuse = (): never => {
  throw ApplicationFailure.nonRetryable(refusal.message, refusal.code);
};

describe("acceptance", () => {
  const start = (party: string) => ({ workflowId: workflowIds.acceptance(party), taskQueue: QUEUES.site });
  const take = (party: string, invitation: string) =>
    workflows.signalWithStart("acceptance", {
      ...start(party),
      signal: invited,
      signalArgs: [{ parent: "company-x", invitation }],
    });

  it("works on an invitation that is taken while it is ending with a refusal", async () => {
    const party = "late-invitation";
    const refused: unknown[] = [];
    script = {
      sendJoin: async () => (calls.filter((name) => name === "sendJoin").length === 1 ? refuse() : undefined),
      // The refusal is stored, the operator sees it and takes another invitation, before the run hears of either.
      refuseJoin: async (no) => {
        refused.push(no);
        await take(party, "second");
      },
      publishCrl: async () => undefined,
    };
    const handle = await take(party, "first");
    await expect.poll(() => calls.filter((name) => name === "sendJoin").length, { timeout: 10_000 }).toBe(2);
    expect(refused).toEqual([{ parent: "company-x", invitation: "first", refusal }]);
    await handle.signal(delegationArrived, { message: "m" });
    expect(await workflows.result(handle.workflowId)).toEqual({ state: "accepted", grant: "02" });
    expect(calls.slice(-3)).toEqual(["acceptGrant", "publishCrl", "recordAcceptance"]);
    await saveHistory(workflows.getHandle(handle.workflowId), "acceptance");
  });

  it("works on an invitation that is taken after a grant was refused", async () => {
    script = { acceptGrant: async () => refuse() };
    const handle = await take("after-grant", "first");
    await handle.signal(delegationArrived, { message: "wrong" });
    await expect.poll(() => calls.at(-1), { timeout: 10_000 }).toBe("refuseGrant");
    script = {};
    await take("after-grant", "second");
    await expect.poll(() => calls.filter((name) => name === "sendJoin").length, { timeout: 10_000 }).toBe(2);
    await handle.signal(delegationArrived, { message: "right" });
    expect(await workflows.result(handle.workflowId)).toEqual({ state: "accepted", grant: "02" });
  });

  it("takes the grant that comes while the one before it is being accepted", async () => {
    const handle = await take("two-grants", "first");
    await expect.poll(() => calls.at(-1), { timeout: 10_000 }).toBe("sendJoin");
    const taken: string[] = [];
    script = {
      acceptGrant: async ({ message }) => {
        taken.push(message);
        if (message === "one") await handle.signal(delegationArrived, { message: "two" });
        return { grant: message };
      },
    };
    await handle.signal(delegationArrived, { message: "one" });
    expect(await workflows.result(handle.workflowId)).toEqual({ state: "accepted", grant: "two" });
    expect(taken).toEqual(["one", "two"]);
  });

  it("ends with the parent's refusal of its join, once", async () => {
    const handle = await take("refused", "first");
    await expect.poll(() => calls.at(-1), { timeout: 10_000 }).toBe("sendJoin");
    await handle.signal(joinRefused, { parent: "company-x", invitation: "first", refusal });
    expect(await workflows.result(handle.workflowId)).toEqual({ state: "refused", ...refusal });
    expect(calls).toEqual(["prepareRequest", "recordKeyset", "sendJoin", "refuseJoin"]);
    await saveHistory(workflows.getHandle(handle.workflowId), "acceptance-refused");
  });
});

describe("what an operator asks for while a run is ending with a refusal", () => {
  it("is delegated", async () => {
    const ask = () =>
      workflows.signalWithStart("delegation", {
        workflowId: workflowIds.delegation("factory-y"),
        taskQueue: QUEUES.site,
        args: [{ child: "factory-y" }],
        signal: asked,
      });
    script = {
      prepareDelegation: async () => (calls.length === 1 ? refuse() : { intent: "delegation/factory-y" }),
      refuseDelegation: async () => void (await ask()),
    };
    const { workflowId } = await ask();
    await expect.poll(() => calls.at(-1), { timeout: 10_000 }).toBe("sendDelegation");
    expect(calls.slice(0, 3)).toEqual(["prepareDelegation", "refuseDelegation", "prepareDelegation"]);
    await workflows.getHandle(workflowId).terminate("the test is over");
  });

  it("is delegated again, as long as no acceptance has come", async () => {
    const ask = () =>
      workflows.signalWithStart("delegation", {
        workflowId: workflowIds.delegation("factory-q"),
        taskQueue: QUEUES.site,
        args: [{ child: "factory-q" }],
        signal: asked,
      });
    const sent = () => calls.filter((name) => name === "sendDelegation").length;
    const { workflowId } = await ask();
    await expect.poll(sent, { timeout: 10_000 }).toBe(1);
    await ask();
    await expect.poll(sent, { timeout: 10_000 }).toBe(2);
    await workflows.getHandle(workflowId).signal(acceptanceArrived, { message: "m" });
    expect(await workflows.result(workflowId)).toEqual({ state: "accepted" });
    expect(calls.slice(4)).toEqual([...calls.slice(0, 4), "confirmAcceptance"]);
  });

  it("is registered", async () => {
    const ask = () =>
      workflows.signalWithStart("hubRegistration", {
        workflowId: workflowIds.hub("root"),
        taskQueue: QUEUES.site,
        args: [{ name: "root" }],
        signal: asked,
      });
    script = {
      proveCaToHub: async () => (calls.length === 1 ? refuse() : { caSha256: "06" }),
      refuseHubRegistration: async () => void (await ask()),
    };
    const { workflowId } = await ask();
    expect(await workflows.result(workflowId)).toEqual({ state: "registered", caSha256: "06" });
    expect(calls).toEqual(["proveCaToHub", "refuseHubRegistration", "proveCaToHub", "recordHubRegistration"]);
  });

  it("is done once when nobody asks again", async () => {
    script = { proveCaToHub: async () => refuse() };
    const { workflowId } = await workflows.signalWithStart("hubRegistration", {
      workflowId: workflowIds.hub("once"),
      taskQueue: QUEUES.site,
      args: [{ name: "once" }],
      signal: asked,
    });
    expect(await workflows.result(workflowId)).toEqual({ state: "refused", ...refusal });
    expect(calls).toEqual(["proveCaToHub", "refuseHubRegistration"]);
  });
});

describe("a change of the CA's key", () => {
  const ask = (party: string) =>
    workflows.signalWithStart("caRotation", {
      workflowId: workflowIds.rotation(party),
      taskQueue: QUEUES.site,
      signal: asked,
    });

  it("is sent, and again when it is asked for while a refusal is ending", async () => {
    script = {
      sendRotation: async () => (calls.length === 1 ? refuse() : undefined),
      refuseRotation: async () => void (await ask("late")),
    };
    const { workflowId } = await ask("late");
    expect(await workflows.result(workflowId)).toEqual({ state: "sent" });
    expect(calls).toEqual(["sendRotation", "refuseRotation", "sendRotation"]);
    await saveHistory(workflows.getHandle(workflowId), "ca-rotation");
  });

  it("is refused once when nobody asks again", async () => {
    script = { sendRotation: async () => refuse() };
    expect(await workflows.result((await ask("once")).workflowId)).toEqual({ state: "refused", ...refusal });
    expect(calls).toEqual(["sendRotation", "refuseRotation"]);
  });
});

describe("revocation", () => {
  const order = (party: string) =>
    workflows.signalWithStart("revocation", {
      workflowId: workflowIds.revocation(party),
      taskQueue: QUEUES.site,
      signal: asked,
    });
  const ROUND = ["recordRevocations", "publishRevocations", "tellHubs"];

  it("works off what is ordered while it is at work, and holds nothing up for a hub that is away", async () => {
    let away = 2;
    script = {
      publishRevocations: async () => {
        // An operator orders another one, after what is recorded was read.
        if (calls.length === 2) await order("at-work");
      },
      tellHubs: async () => ({ left: away-- > 0 }),
    };
    const { workflowId } = await order("at-work");
    await workflows.result(workflowId);
    await saveHistory(workflows.getHandle(workflowId), "revocation");
    expect(calls).toEqual([...ROUND, ...ROUND, ...ROUND]);
  });

  it("records everything before it makes one CRL of it", async () => {
    let left = 3;
    script = { recordRevocations: async () => ({ left: --left > 0 }) };
    const { workflowId } = await order("many");
    await workflows.result(workflowId);
    expect(calls).toEqual(["recordRevocations", "recordRevocations", ...ROUND]);
  });
});

describe("a hub that is driven", () => {
  const busy = (): never => {
    throw ApplicationFailure.create({ type: "hub-busy", message: "429", nextRetryDelay: "1 second" });
  };

  it("gets the CA, however busy it is, and says what it refuses", async () => {
    const line = { hub: "azure", line: "factory-y" };
    const ask = () =>
      workflows.signalWithStart("hubLine", {
        workflowId: hubWorkflowIds.line(line.hub, line.line),
        taskQueue: QUEUES.site,
        args: [line],
        signal: asked,
      });
    script = {
      registerCa: async () => (calls.length === 1 ? busy() : { name: "factory-y", caSha256: "08" }),
      // The CA was renewed meanwhile.
      recordCaRegistration: async () => void (calls.length === 4 && (await ask())),
    };
    const { workflowId } = await ask();
    expect(await workflows.result(workflowId)).toEqual({ state: "registered", name: "factory-y", caSha256: "08" });
    const once = ["registerCa", "followEnrollments", "recordCaRegistration"];
    expect(calls).toEqual(["registerCa", ...once, ...once]);
    await saveHistory(workflows.getHandle(workflowId), "hub-line");

    calls = [];
    script = { registerCa: async () => refuse() };
    expect(await workflows.result((await ask()).workflowId)).toEqual({ state: "refused", ...refusal });
    expect(calls).toEqual(["registerCa", "refuseCaRegistration"]);
  });

  it("is changed once, and again when that is asked for meanwhile", async () => {
    const input = { hub: "azure", change: { kind: "disable-device" as const, subject: "dev-1" } };
    const workflowId = hubWorkflowIds.change(input.hub, input.change);
    script = { changeHub: async () => (calls.length === 1 ? busy() : { deviceId: "dev-1", state: "disabled" }) };
    await workflows.signalWithStart("hubChange", { workflowId, taskQueue: QUEUES.site, args: [input], signal: asked });
    expect(await workflows.result(workflowId)).toMatchObject({ state: "done", answer: { state: "disabled" } });
    expect(calls).toEqual(["changeHub", "changeHub"]);
    await saveHistory(workflows.getHandle(workflowId), "hub-change");
  });

  it("is told of revocations until none is left, however busy it is, and of those recorded meanwhile", async () => {
    const workflowId = hubWorkflowIds.revocations("azure");
    const ask = () =>
      workflows.signalWithStart("hubRevocations", {
        workflowId,
        taskQueue: QUEUES.site,
        args: [{ hub: "azure" }],
        signal: asked,
      });
    script = {
      tellHubRevocations: async () => {
        if (calls.length === 1) busy();
        if (calls.length === 3) await ask();
        return { left: calls.length === 2 };
      },
    };
    await ask();
    await workflows.result(workflowId);
    expect(calls).toHaveLength(4);
    await saveHistory(workflows.getHandle(workflowId), "hub-revocations");
  });
});
