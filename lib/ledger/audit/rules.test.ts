import { beforeAll, describe, expect, it } from "vitest";
import { auditWorld } from "../../../test/support/audit-world.ts";
import { fieldsOf, keep, only, rewritten, type Edit } from "../../../test/support/forged-ledgers.ts";
import { MemoryLog, testKey } from "../../../test/support/memory-log.ts";
import { sha, testWorld, type TestParty, type TestWorld } from "../../../test/support/world.ts";
import { toBase64, toHex } from "../../domain/bytes.ts";
import type { ActFields, ActType } from "../../records/acts.ts";
import { csrItem } from "../../records/manifest.ts";
import { parseEntry, type Act, type AnyAct } from "../../records/statement.ts";
import { leafHash } from "../tree.ts";
import type { Finding, FindingCode } from "./finding.ts";
import type { AuditReport } from "./ledgers.ts";

/** What an audit promises, rule by rule: each is broken by whoever has a party's own keys, and each time it shows. */

type Logs = ReadonlyMap<string, MemoryLog>;
const FIRST = "DEV-00001";
const SECOND = "DEV-00002";

describe("an audit's rules", () => {
  let world: TestWorld;
  beforeAll(async () => {
    world = await testWorld(2);
  });

  const audit = (logs: Logs, previous?: Parameters<typeof auditWorld>[2]) => auditWorld(world, logs, previous);
  const errors = (report: AuditReport): Finding[] => report.findings.filter((f) => f.severity === "error");
  const open = (report: AuditReport): Finding[] => report.findings.filter((f) => f.severity === "open");
  const codes = (findings: readonly Finding[]): FindingCode[] => [...new Set(findings.map((f) => f.code))].sort();

  const one = async (party: TestParty, edit: Edit, more?: readonly Uint8Array[]): Promise<Logs> =>
    new Map([[party.id, await rewritten(party, edit, more)]]);
  /** All three, each continuing what the one before it says now. */
  async function all(edits: { x?: Edit; y?: Edit; z?: Edit }): Promise<Logs> {
    const renamed = new Map<string, string>();
    const { x, y, z } = world;
    const logs = new Map<string, MemoryLog>();
    for (const [party, edit] of [
      [x, edits.x],
      [y, edits.y],
      [z, edits.z],
    ] as const) {
      logs.set(party.id, await rewritten(party, edit ?? keep, [], renamed));
    }
    return logs;
  }
  /** The same entries in another order. */
  async function reordered(party: TestParty, rank: (act: AnyAct, index: number) => number): Promise<Logs> {
    const log = new MemoryLog(party.origin, party.log.signer);
    const ranked = party.log.entries.map((entry, i) => ({ entry, rank: rank(parseEntry(entry).act, i) }));
    await log.append(ranked.toSorted((a, b) => a.rank - b.rank).map(({ entry }) => entry));
    return new Map([[party.id, log]]);
  }
  const without = (...types: ActType[]): Edit => {
    return (act) => (types.includes(act.type) ? undefined : act);
  };
  const ofDevice = (device: string, types: readonly ActType[], edit: Edit): Edit => {
    return (act) => (types.includes(act.type) && act.subject[0]!.name === device ? edit(act) : act);
  };
  const drop: Edit = () => undefined;
  function find<T extends ActType>(party: TestParty, type: T): Act<T> & { ref: { origin: string; leafHash: string } } {
    for (const entry of party.log.entries) {
      const { act } = parseEntry(entry);
      const ref = { origin: party.origin, leafHash: toHex(leafHash(entry)) };
      if (act.type === type) return { ...(act as unknown as Act<T>), ref };
    }
    throw new Error(`no ${type} act`);
  }
  async function signed(party: TestParty, ...args: Parameters<TestParty["signed"]>) {
    const ref = await party.signed(...args);
    return { ref, entry: party.pending.pop()! };
  }

  it("finds nothing where all is well, and each device in one place", async () => {
    const report = await audit(await all({}));
    expect(report.findings).toEqual([]);
    expect(report.lots).toMatchObject([
      { built: 2, certified: 2, injected: 2, installed: 2, atBuilder: 0, onTheWay: 0, missing: 0, uncertified: 0 },
    ]);
    const { timeline } = report;
    expect(Object.keys(timeline!.acts)).toEqual(expect.arrayContaining(["company-x", "factory-y", "technician-z"]));
    for (const { id, size } of report.parties) {
      expect(timeline!.acts[id]!.reduce((a, b) => a + b)).toBe(size);
    }
  });

  type Case = [rule: string, expected: FindingCode[], forge: () => Promise<Logs>];
  const cases: Case[] = [
    // No certificate without a grant ...
    [
      "a party accepts a grant that isn't its own, and certifies under it",
      ["grant-missing"],
      () =>
        one(world.z, (act) => (act.type === "keyset" ? act : { ...act, grant: find(world.y, "acceptance").grant! })),
    ],
    ["a party certifies under no grant", ["act-invalid"], () => one(world.z, bare("certified"))],
    // ... intent ...
    [
      "a certificate's bytes are not among those intended",
      ["intent-missing"],
      () =>
        one(
          world.z,
          fieldsOf("intent", () => ({ tbsRoot: sha("something else") })),
        ),
    ],
    ["a certificate was signed that nobody had intended", ["intent-missing"], () => one(world.z, without("intent"))],
    ["the intent was logged after the certificate", ["intent-missing"], () => late(world.z, "intent")],
    // ... and act.
    [
      "one intended certificate stands for two",
      ["intent-missing"],
      () =>
        one(
          world.z,
          fieldsOf("certified", ({ intent }) => ({ intent: { ...intent, index: 0 } })),
        ),
    ],
    // No device over quota.
    [
      "more devices are certified than were granted",
      ["quota-exceeded"],
      () => all({ y: only("delegation", (act) => ({ ...act, fields: { ...act.fields, quota: 1 } })) }),
    ],
    [
      "more is delegated on than was granted",
      ["quota-exceeded"],
      () => all({ x: only("delegation", (act) => ({ ...act, fields: { ...act.fields, quota: 1000 } })) }),
    ],
    // No act out of order.
    [
      "a device is installed before it is certified",
      ["custody-broken"],
      () => early(world.z, "installed", "certified"),
    ],
    ["a chain is injected before it is certified", ["custody-broken"], () => early(world.z, "injected", "certified")],
    ["a device is certified before it arrives", ["custody-broken"], () => late(world.z, "handoff-received")],
    ["devices are released before they are built", ["custody-broken"], () => late(world.y, "built")],
    ["a lot is opened after it is built", ["lot-invalid"], () => late(world.y, "lot-opened")],
    [
      "an act is logged twice",
      ["act-repeated"],
      () => one(world.z, keep, [world.z.log.entries.find((e) => parseEntry(e).act.type === "installed")!]),
    ],
    // Custody never in two hands.
    [
      "a device is certified by whom it was never handed to",
      ["custody-broken"],
      () => one(world.z, without("handoff-received")),
    ],
    ["devices are released twice", ["custody-broken"], () => releasedTwice()],
    ["devices are received twice", ["custody-broken"], () => receivedTwice()],
    ["the giver goes on with what it has released", ["custody-broken"], () => installedByGiver()],
    [
      "an act in between is left out",
      ["custody-broken", "reference-missing"],
      () => one(world.z, ofDevice(FIRST, ["injected"], drop)),
    ],
    // Lots that don't add up, and gaps.
    ["a slot is used twice", ["slot-reused"], () => one(world.y, keepSlots(1))],
    ["a slot lies beyond the lot", ["lot-invalid"], () => one(world.y, keepSlots(3))],
    ["a slot was passed over", ["slot-gap"], () => gap()],
    [
      "the two sides of a lot name other terms",
      ["lot-invalid"],
      () =>
        one(
          world.z,
          fieldsOf("lot-opened", ({ slots }) => ({ slots: slots + 1 })),
        ),
    ],
    [
      "a handoff's count is not its list's",
      ["handoff-invalid"],
      () =>
        one(
          world.y,
          fieldsOf("handoff-released", ({ count }) => ({ count: count + 1 })),
        ),
    ],
    [
      "the two sides of a handoff name other counts",
      ["handoff-invalid"],
      () =>
        one(
          world.z,
          fieldsOf("handoff-received", ({ count }) => ({ count: count + 1 })),
        ),
    ],
    [
      "a party's ledger isn't there",
      ["ledger-missing"],
      async () => new Map([[world.y.id, { fetch: async () => undefined } as unknown as MemoryLog]]),
    ],
    [
      "a recovery names another history",
      ["ledger-invalid"],
      async () => one(world.z, keep, [await recovery({ size: 3, root: sha("another tree") })]),
    ],
    [
      "a recovery goes back to more than there was",
      ["act-invalid"],
      async () => one(world.z, keep, [await recovery({ size: 10_000, root: sha("no tree") })]),
    ],
  ];

  it.each(cases)("are broken when %s", async (_rule, expected, forge) => {
    const found = codes(errors(await audit(await forge())));
    expect(found).toEqual(expect.arrayContaining(expected));
  });

  it("are not broken by a recovery that tells the truth", async () => {
    const { log } = world.z;
    const prefix = new MemoryLog(world.z.origin, log.signer);
    await prefix.append(log.entries.slice(0, 3));
    const note = new TextDecoder().decode(prefix.resources.get("checkpoint"));
    const root = Buffer.from(note.split("\n")[2]!, "base64").toString("hex");
    const report = await audit(await one(world.z, keep, [await recovery({ size: 3, root })]));
    expect(report.findings).toEqual([]);
  });

  it("report every handoff that isn't closed", async () => {
    const later = without("handoff-received", "intent", "certified", "injected", "installed");
    const report = await audit(await one(world.z, later));
    expect(errors(report)).toEqual([]);
    expect(open(report)).toMatchObject([{ code: "handoff-open", party: "factory-y", subject: "HANDOFF-1" }]);
    expect(report.lots[0]).toMatchObject({ built: 2, certified: 0, onTheWay: 2 });
  });

  it("report what a lot still owes: devices that didn't arrive, that stayed, that nobody certified", async () => {
    const rest: ActType[] = ["certified", "injected", "installed"];
    const lost = (act: AnyAct): AnyAct | AnyAct[] | undefined =>
      act.type === "handoff-received"
        ? { ...act, fields: { ...act.fields, discrepancies: [`${SECOND}: not in the box`] } }
        : act;
    const kept = await audit(await one(world.z, (act) => ofDevice(SECOND, rest, drop)(lost(act) as AnyAct)));
    expect(codes(open(kept))).toEqual(["device-missing", "intent-open"]);
    expect(open(kept).find(({ code }) => code === "device-missing")!.message).toContain(SECOND);
    expect(kept.lots[0]).toMatchObject({ built: 2, certified: 1, missing: 1 });

    const uncertified = await audit(await one(world.z, ofDevice(SECOND, rest, drop)));
    expect(errors(uncertified)).toEqual([]);
    expect(open(uncertified)).toMatchObject([
      { code: "intent-open", party: "technician-z", subject: "LOT-1" },
      { code: "lot-open", party: "technician-z", subject: "LOT-1" },
    ]);
    expect(uncertified.lots[0]).toMatchObject({ certified: 1, uncertified: 1 });

    const { y } = world;
    const stayed = await lotOf(y, "LOT-2", world.z.id, [1, 2]);
    const report = await audit(await one(y, keep, stayed));
    expect(errors(report)).toEqual([]);
    expect(open(report)).toMatchObject([{ code: "lot-open", party: "factory-y", subject: "LOT-2" }]);
    expect(report.lots[1]).toMatchObject({ atBuilder: 2 });
  });

  it("see a ledger that was rolled back or rewritten since an older copy", async () => {
    const older = (party: string, path: string) =>
      [world.x, world.y, world.z].find(({ id }) => id === party)!.log.fetch(path);
    for (const edit of [without("installed"), fieldsOf("installed", () => ({ place: sha("elsewhere") }))]) {
      const report = await audit(await one(world.z, edit), older);
      expect(errors(report).map(({ party }) => party)).toContain("technician-z");
    }
  });

  function bare(...types: ActType[]): Edit {
    return (act) => {
      const { grant: _grant, ...rest } = act;
      return types.includes(act.type) ? (rest as AnyAct) : act;
    };
  }
  const late = (party: TestParty, type: ActType) => reordered(party, (act, i) => (act.type === type ? 1e6 + i : i));
  function early(party: TestParty, type: ActType, before: ActType): Promise<Logs> {
    const first = party.log.entries.findIndex((entry) => parseEntry(entry).act.type === before);
    return reordered(party, (act, i) => (act.type === type ? first - 1 + i / 1e6 : i));
  }
  const keepSlots = (slot: number): Edit =>
    ofDevice(
      SECOND,
      ["built"],
      only("built", (act) => ({ ...act, fields: { ...act.fields, slot } })),
    );

  async function releasedTwice(): Promise<Logs> {
    const { y } = world;
    const { fields, subject, prev, grant, blobs } = find(y, "handoff-released");
    const again = { ...fields, id: "HANDOFF-2" };
    const { entry } = await signed(y, "handoff-released", { ...subject[0]!, name: again.id }, again, {
      prev,
      grant: grant!,
      blobs,
    });
    return one(y, keep, [entry]);
  }
  async function receivedTwice(): Promise<Logs> {
    const { z } = world;
    const { fields, subject, prev, grant } = find(z, "handoff-received");
    const { entry } = await signed(z, "handoff-received", subject[0]!, fields, {
      prev,
      grant: grant!,
      time: new Date().toISOString(),
    });
    return one(z, keep, [entry]);
  }
  async function installedByGiver(): Promise<Logs> {
    const { y, z } = world;
    const { fields, subject } = find(z, "installed");
    const built = find(y, "built");
    const entry = y.statement("installed", subject[0]!, fields, { prev: [built.ref], grant: built.grant! });
    return one(y, keep, [entry]);
  }
  /** A lot of the factory's own, with devices in these slots. */
  async function lotOf(party: TestParty, id: string, issuer: string, slots: readonly number[]): Promise<Uint8Array[]> {
    const { fields, grant } = find(party, "lot-opened");
    const terms: ActFields<"lot-opened"> = { ...fields, lot: id, issuer, slots: 9 };
    const lot = await signed(party, "lot-opened", { name: id, digest: { sha256: sha(id) } }, terms, { grant: grant! });
    const requests = slots.map((slot) => sha(`${id} ${slot}`));
    const intakes = await party.manifest("built", id, requests.map(csrItem));
    const built = slots.map((slot, i) => {
      const key = testKey("p256");
      const subject = { name: `DEV-${id}-${slot}`, digest: { sha256: key.keyId } };
      const spki = toBase64(key.spki);
      const record = { lot: id, slot, spki, csrSha256: requests[i]!, intake: intakes[i]! };
      return party.statement("built", subject, record, { prev: [lot.ref], grant: grant! });
    });
    return [lot.entry, ...built];
  }
  const gap = async (): Promise<Logs> => one(world.y, keep, await lotOf(world.y, "LOT-3", world.y.id, [1, 3]));
  async function recovery(rebuilt: { size: number; root: string }): Promise<Uint8Array> {
    const { z } = world;
    const empty = { size: 0, root: sha("") };
    const { entry } = await signed(
      z,
      "recovered",
      { name: z.id, digest: { sha256: z.act.keyId } },
      { restored: empty, rebuilt },
      { grant: find(z, "acceptance").grant! },
    );
    return entry;
  }
});
