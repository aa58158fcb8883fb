import { randomBytes } from "node:crypto";
import fc from "fast-check";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { nodeVerify } from "../../hsm/index.ts";
import { fromBase64, toBase64, utf8 } from "../../lib/domain/bytes.ts";
import type { ErrorCode } from "../../lib/domain/error-codes.ts";
import { isCountersignError } from "../../lib/domain/errors.ts";
import type { Body, Invitation } from "../../lib/records/message.ts";
import { findDelegation } from "../../store/delegations.ts";
import type { Db } from "../../store/db.ts";
import { createHead } from "../../store/ledger.ts";
import { findPeer } from "../../store/parties.ts";
import {
  Correspondent,
  invite,
  joinBody,
  makeTestParty,
  signedAct,
  siteDatabase,
  type Sent,
  type TestParty,
} from "../../test/support/parties.ts";
import { softhsmDir } from "../../test/support/index.ts";
import { encodeWire, readWire } from "./envelope.ts";
import { Inbox } from "./inbox.ts";
import { contactOf } from "./identity.ts";
import { makeKeyset } from "./keyset.ts";

let db: Db;
let parent: TestParty;
let child: TestParty;
let stranger: TestParty;
let now: Date | undefined;
let inbox: Inbox;

beforeAll(async () => {
  const hsm = softhsmDir();
  parent = await makeTestParty(hsm, "company-x");
  child = await makeTestParty(hsm, "factory-y");
  stranger = await makeTestParty(hsm, "mallory");
  db = await siteDatabase();
  inbox = new Inbox({ db, party: "company-x", verify: nodeVerify, now: () => now ?? new Date() });
});
afterAll(async () => {
  await db?.end();
  await Promise.all([parent, child, stranger].map((party) => party?.close()));
});
beforeEach(async () => {
  now = undefined;
  await db.query("TRUNCATE peer, invitation, delegation, inbox, outbox CASCADE");
});

async function codeOf(work: Promise<unknown>): Promise<ErrorCode> {
  const error = await work.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  if (!isCountersignError(error)) throw new Error("expected a refusal", { cause: error });
  return error.code;
}

async function kept(): Promise<{ peers: number; messages: number; delegations: number; spent: number }> {
  const { rows } = await db.query<{ peers: number; messages: number; delegations: number; spent: number }>(
    `SELECT (SELECT count(*) FROM peer) AS peers, (SELECT count(*) FROM inbox) AS messages,
       (SELECT count(*) FROM delegation) AS delegations,
       (SELECT count(*) FROM invitation WHERE spent IS NOT NULL) AS spent`,
  );
  return rows[0]!;
}
const NOTHING = { peers: 0, messages: 0, delegations: 0, spent: 0 };

describe("a join", () => {
  let invitation: Invitation;
  let body: Body<"join">;
  beforeEach(async () => {
    invitation = await invite(db, parent, "factory-y");
    body = await joinBody(child, invitation);
  });
  const write = (changed: Body<"join"> = body, from = child): Promise<Sent> =>
    new Correspondent(from, "company-x").write("join", changed);

  it("is taken with an unspent nonce: the child is pinned and its request kept", async () => {
    const { wire, message } = await write();
    expect(await inbox.receive(wire)).toEqual({ id: message.id, sequence: 1, state: "stored" });
    expect(await kept()).toEqual({ peers: 1, messages: 1, delegations: 1, spent: 1 });
    const peer = await findPeer(db, "factory-y");
    expect(peer).toMatchObject({ direction: "child", contact: contactOf(child.identity) });
    expect(Buffer.from(peer!.actSpki)).toEqual(Buffer.from(child.identity.act.spki));
    const row = await findDelegation(db, "factory-y");
    expect(row).toMatchObject({ state: "joined", invitation: invitation.id });
    expect(toBase64(row!.csr)).toBe(body.csr);
  });

  it("gets one answer however often it is delivered, also at once", async () => {
    const { wire } = await write();
    const answers = await Promise.all(Array.from({ length: 8 }, () => inbox.receive(wire)));
    answers.push(await inbox.receive(wire));
    expect(new Set(answers.map((answer) => JSON.stringify(answer))).size).toBe(1);
    expect(await kept()).toEqual({ peers: 1, messages: 1, delegations: 1, spent: 1 });
  });

  it("spends its nonce: a second join by it is refused, even by the same party", async () => {
    await inbox.receive((await write()).wire);
    const again = new Correspondent(child, "company-x");
    expect(await codeOf(inbox.receive((await again.write("join", body)).wire))).toBe("envelope-replayed");
    const second = await again.write("join", body, { previous: null });
    expect(await codeOf(inbox.receive(second.wire))).toBe("envelope-forged");
    await db.query("DELETE FROM inbox");
    await db.query("TRUNCATE delegation, peer CASCADE");
    expect(await codeOf(inbox.receive((await write()).wire))).toBe("invitation-spent");
  });

  it("lets only one of two parties with one invitation in", async () => {
    const thief = await joinBody({ ...child, identity: { ...stranger.identity, party: "factory-y" } }, invitation);
    const stolen = new Correspondent(
      { ...stranger, identity: { ...stranger.identity, party: "factory-y" } },
      "company-x",
    );
    const outcomes = await Promise.allSettled([
      inbox.receive((await write()).wire),
      inbox.receive((await stolen.write("join", thief)).wire),
    ]);
    expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    expect(await kept()).toEqual({ peers: 1, messages: 1, delegations: 1, spent: 1 });
  });

  const refusals: [string, ErrorCode, () => Promise<Sent>][] = [
    [
      "with an invitation nobody gave",
      "invitation-invalid",
      () => write({ ...body, invitation: "5d1d3e0c-5dd6-4fd3-8d4a-0c1d3c1f9f10" }),
    ],
    [
      "with a guessed nonce",
      "invitation-invalid",
      () => write({ ...body, nonce: randomBytes(32).toString("base64url") }),
    ],
    [
      "of a party that wasn't invited",
      "invitation-invalid",
      async () => write(await joinBody(stranger, invitation), stranger),
    ],
    [
      "whose request lacks the nonce",
      "possession-unproven",
      async () => write({ ...body, csr: toBase64(await child.ca.signRequest({ cn: "CA" })) }),
    ],
    [
      "whose request carries another nonce",
      "possession-unproven",
      async () =>
        write({ ...body, csr: toBase64(await child.ca.signRequest({ cn: "CA", challengePassword: "x".repeat(43) })) }),
    ],
    [
      "whose request is signed by another key",
      "csr-signature-invalid",
      async () => {
        const csr = fromBase64(body.csr);
        csr[csr.length - 1]! ^= 1;
        return write({ ...body, csr: toBase64(csr) });
      },
    ],
    [
      "whose request isn't the keyset's",
      "possession-unproven",
      async () =>
        write({
          ...body,
          csr: toBase64(await stranger.ca.signRequest({ cn: "CA", challengePassword: invitation.nonce })),
        }),
    ],
    [
      "whose request was made anew since the keyset",
      "possession-unproven",
      async () =>
        write({
          ...body,
          csr: toBase64(await child.ca.signRequest({ cn: "CA", challengePassword: invitation.nonce })),
        }),
    ],
    [
      "whose earlier request is for another key",
      "possession-unproven",
      async () =>
        write({
          ...body,
          earlier: toBase64(await stranger.ca.signRequest({ cn: "CA", challengePassword: invitation.nonce })),
        }),
    ],
    [
      "whose earlier request isn't the keyset's either",
      "possession-unproven",
      async () => write({ ...body, earlier: toBase64(await child.ca.signRequest({ cn: "CA" })) }),
    ],
    [
      "whose contact names another act key",
      "envelope-forged",
      () => write({ ...body, contact: { ...body.contact, act: toBase64(stranger.identity.act.spki) } }),
    ],
    [
      "whose contact names another log",
      "possession-unproven",
      () => write({ ...body, contact: { ...body.contact, vkey: contactOf(stranger.identity).vkey } }),
    ],
    [
      "whose contact names another witness",
      "possession-unproven",
      () => write({ ...body, contact: { ...body.contact, witness: contactOf(stranger.identity).witness } }),
    ],
    [
      "whose TLS CA isn't its infrastructure CA",
      "possession-unproven",
      () => write({ ...body, contact: { ...body.contact, tlsCa: contactOf(stranger.identity).tlsCa } }),
    ],
    [
      "whose infrastructure certificate is another's",
      "possession-unproven",
      () => write({ ...body, infrastructure: toBase64(stranger.identity.infrastructure.certificate) }),
    ],
    [
      "whose keyset another party signed",
      "act-invalid",
      async () => write({ ...body, keyset: (await joinBody(stranger, invitation)).keyset }),
    ],
    [
      "whose log key has no proof",
      "possession-unproven",
      () => withKeyset((keyset) => ({ ...keyset, proofs: { ...keyset.proofs, log: { checkpoint: "x\n0\n\n" } } })),
    ],
    [
      "whose witness key's proof is another key's",
      "possession-unproven",
      () =>
        withKeyset((keyset) => ({
          ...keyset,
          proofs: { ...keyset.proofs, witness: { signature: toBase64(randomBytes(64)) } },
        })),
    ],
    [
      "whose image-signing key's proof is another key's",
      "possession-unproven",
      () => withKeyset((keyset) => ({ ...keyset, imageSigning: toBase64(stranger.identity.imageSigning!.spki) })),
    ],
    [
      "whose image-signing key has no proof",
      "possession-unproven",
      () =>
        withKeyset((keyset) => {
          const { ca, infrastructure, log, witness } = keyset.proofs;
          return { ...keyset, proofs: { ca, infrastructure, log, witness } };
        }),
    ],
    [
      "that uses one key for two roles",
      "possession-unproven",
      () => withKeyset((keyset) => ({ ...keyset, infrastructure: keyset.ca })),
    ],
    ["whose envelope another key signed", "envelope-forged", async () => forged("join", body)],
  ];

  type Keyset = Awaited<ReturnType<typeof makeKeyset>>;
  async function withKeyset(change: (keyset: Keyset) => Keyset): Promise<Sent> {
    const honest = await makeKeyset(child.identity, { spki: child.ca.spki, kind: "csr", der: fromBase64(body.csr) });
    const keyset = change(honest);
    const act = await signedAct(child, {
      type: "keyset",
      subject: [{ name: "factory-y", digest: { sha256: "0".repeat(64) } }],
      prev: [],
      fields: { keyset },
    });
    return write({ ...body, keyset: toBase64(act.entry) });
  }

  it.each(refusals)("%s is refused (%s) and leaves nothing behind", async (_what, code, make) => {
    const { wire } = await make();
    expect(await codeOf(inbox.receive(wire))).toBe(code);
    expect(await kept()).toEqual(NOTHING);
    // The nonce is still good for the right one.
    await inbox.receive((await write()).wire);
  });

  it("that takes another party's log for its own is refused, of two at once as well", async () => {
    const claimed = { ...stranger, identity: { ...stranger.identity, origin: child.identity.origin } };
    const second = await invite(db, parent, "mallory");
    const taking = await joinBody(claimed, second);
    const outcomes = await Promise.allSettled([
      inbox.receive((await write()).wire),
      inbox.receive((await new Correspondent(claimed, "company-x").write("join", taking)).wire),
    ]);
    expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    const refused = outcomes.find(({ status }) => status === "rejected") as PromiseRejectedResult;
    expect(refused.reason).toMatchObject({ code: "possession-unproven" });
    expect(await kept()).toEqual({ peers: 1, messages: 1, delegations: 1, spent: 1 });
  });

  it("that takes the site's own log is refused", async () => {
    const { origin } = child.identity;
    await createHead(db, origin, new Uint8Array(32));
    try {
      expect(await codeOf(inbox.receive((await write()).wire))).toBe("possession-unproven");
      expect(await kept()).toEqual(NOTHING);
    } finally {
      await db.query("DELETE FROM ledger_head");
    }
  });

  it("by an expired invitation is refused", async () => {
    const { wire } = await write();
    now = new Date(Date.now() + 61_000);
    expect(await codeOf(inbox.receive(wire))).toBe("invitation-invalid");
    expect(await kept()).toEqual(NOTHING);
  });
});

const forged = (type: "join" | "acceptance", body: Body<"join"> | Body<"acceptance">): Promise<Sent> =>
  new Correspondent(child, "company-x").draft(type, body as Body<"join">, {}, stranger.identity.act);

describe("envelopes of a known party", () => {
  let letters: Correspondent;
  const body: Body<"acceptance"> = { act: toBase64(utf8("an act")) };
  beforeEach(async () => {
    const invitation = await invite(db, parent, "factory-y");
    letters = new Correspondent(child, "company-x");
    await inbox.receive((await letters.write("join", await joinBody(child, invitation))).wire);
  });
  const messages = async (): Promise<number> => (await kept()).messages;

  it("are taken one after the other", async () => {
    for (let n = 2; n <= 5; n++) {
      expect(await inbox.receive((await letters.write("acceptance", body)).wire)).toMatchObject({ sequence: n });
    }
    expect(await messages()).toBe(5);
  });

  it("are taken once, also when delivered again and at once", async () => {
    const { wire } = await letters.write("acceptance", body);
    const answers = await Promise.all(Array.from({ length: 6 }, () => inbox.receive(wire)));
    expect(new Set(answers.map((answer) => JSON.stringify(answer))).size).toBe(1);
    expect(await messages()).toBe(2);
  });

  it("get the first answer again even when they have expired since", async () => {
    const { wire } = await letters.write("acceptance", body);
    const first = await inbox.receive(wire);
    now = new Date(Date.now() + 3_600_000);
    expect(await inbox.receive(wire)).toEqual(first);
  });

  const cases: [string, ErrorCode, () => Promise<Sent | { wire: Uint8Array }>][] = [
    ["signed by another key", "envelope-forged", () => letters.draft("acceptance", body, {}, stranger.identity.act)],
    [
      "signed by another key, under that key's id",
      "envelope-forged",
      () => letters.draft("acceptance", body, { keyId: "0".repeat(64) }, stranger.identity.act),
    ],
    ["for somebody else", "envelope-forged", () => letters.draft("acceptance", body, { receiver: "technician-z" })],
    [
      "with another body",
      "envelope-forged",
      async () => {
        const { wire } = await letters.draft("acceptance", body);
        const other = utf8(JSON.stringify({ act: toBase64(utf8("an ACT")) }));
        return { wire: encodeWire(readWire(wire).bytes, other) };
      },
    ],
    [
      "with a body cut short",
      "envelope-forged",
      async () => ({ wire: (await letters.draft("acceptance", body)).wire.slice(0, -1) }),
    ],
    ["ahead of their turn", "envelope-out-of-order", () => letters.draft("acceptance", body, { sequence: 3 })],
    ["of another epoch", "envelope-out-of-order", () => letters.draft("acceptance", body, { epoch: 2 })],
    [
      "that don't follow the last one",
      "envelope-forged",
      () => letters.draft("acceptance", body, { previous: "a".repeat(64) }),
    ],
    ["that follow nothing", "envelope-forged", () => letters.draft("acceptance", body, { previous: null })],
    [
      "that have expired",
      "envelope-expired",
      () => letters.draft("acceptance", body, { expires: new Date(Date.now() - 1000).toISOString() }),
    ],
    ["of a number that is taken", "envelope-replayed", () => letters.draft("acceptance", body, { sequence: 1 })],
    [
      "of a type that only a parent sends",
      "unauthorized",
      () => letters.draft("delegation", { act: body.act, upstream: [body.act] }),
    ],
    [
      "whose body isn't one of their type",
      "envelope-invalid",
      () => letters.draft("acceptance", { act: "not base64!" }),
    ],
  ];

  it.each(cases)("%s are refused (%s), and the right one still goes through", async (_what, code, make) => {
    const { wire } = await make();
    expect(await codeOf(inbox.receive(wire))).toBe(code);
    expect(await messages()).toBe(1);
    await inbox.receive((await letters.write("acceptance", body)).wire);
  });

  it("may not use a message id twice", async () => {
    const first = await letters.write("acceptance", body);
    await inbox.receive(first.wire);
    const { wire } = await letters.draft("acceptance", body, { id: first.message.id });
    expect(await codeOf(inbox.receive(wire))).toBe("envelope-replayed");
  });

  it("begin again after the sender's recovery: a new epoch, and what it has forgotten is taken once", async () => {
    const forgotten = await letters.write("acceptance", body);
    await inbox.receive(forgotten.wire);
    const before = await messages();
    const anew = { epoch: 3, sequence: 1, previous: null };
    for (const change of [{ sequence: 2 }, { previous: "a".repeat(64) }]) {
      const { wire } = await letters.draft("acceptance", body, { ...anew, ...change });
      expect(await codeOf(inbox.receive(wire))).toMatch(/^envelope-(out-of-order|forged)$/);
    }
    // Sent before, and not known any more to have been: under another number, with the same id and body.
    const { wire } = await letters.draft("acceptance", body, { ...anew, id: forgotten.message.id });
    await inbox.receive(wire);
    expect(await messages()).toBe(before);
    const next = { epoch: 3, sequence: 2, previous: readWire(wire).sha256 };
    await inbox.receive((await letters.draft("acceptance", body, next)).wire);
    expect(await messages()).toBe(before + 1);
    // The old numbers are over.
    expect(await codeOf(inbox.receive((await letters.draft("acceptance", body)).wire))).toBe("envelope-out-of-order");
  });

  it("that tell of a recovery carry the sender's own act of it", async () => {
    const before = await messages();
    const zero = "0".repeat(64);
    const told = async (from: TestParty, type: "recovered" | "alarm"): Promise<Body<"recovered">> => {
      const head = { size: 1, root: zero };
      const recovered = { type: "recovered", fields: { restored: head, rebuilt: head } } as const;
      const alarm = {
        type: "alarm",
        fields: { what: "unlogged-certificate", evidence: { certificate: "AA==" } },
      } as const;
      const act = { subject: [{ name: "factory-y", digest: { sha256: zero } }], prev: [] };
      const { entry } = await (type === "alarm"
        ? signedAct(from, { ...act, ...alarm })
        : signedAct(from, { ...act, ...recovered }));
      return { act: toBase64(entry), received: { epoch: 1, sequence: 0 } };
    };
    const posing = {
      ...stranger,
      identity: { ...stranger.identity, party: "factory-y", origin: child.identity.origin },
    };
    const junk = { ...(await told(child, "recovered")), act: toBase64(utf8("an act")) };
    for (const forgery of [
      await told(child, "alarm"),
      await told(stranger, "recovered"),
      await told(posing, "recovered"),
      junk,
    ]) {
      const code = await codeOf(inbox.receive((await letters.draft("recovered", forgery)).wire));
      expect(code).toMatch(/^(act|envelope)-invalid$/);
    }
    expect(await messages()).toBe(before);
    await inbox.receive((await letters.write("recovered", await told(child, "recovered"))).wire);
    expect(await messages()).toBe(before + 1);
  });

  it("in the wrong order are told which one is next", async () => {
    const second = await letters.write("acceptance", body);
    const third = await letters.write("acceptance", body);
    await expect(inbox.receive(third.wire)).rejects.toMatchObject({
      code: "envelope-out-of-order",
      details: { epoch: 1, next: 2 },
    });
    await inbox.receive(second.wire);
    await inbox.receive(third.wire);
    expect(await messages()).toBe(3);
  });

  it("of different content racing for one number: one is taken", async () => {
    const rivals = await Promise.all([1, 2, 3, 4].map(() => letters.draft("acceptance", body)));
    const outcomes = await Promise.allSettled(rivals.map(({ wire }) => inbox.receive(wire)));
    expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    expect(await messages()).toBe(2);
  });

  it("of a stranger are refused unless they join", async () => {
    const { wire } = await new Correspondent(stranger, "company-x").write("acceptance", body);
    expect(await codeOf(inbox.receive(wire))).toBe("sender-unknown");
  });
});

describe("the wire format", () => {
  it("gives back what was put in", async () => {
    const letters = new Correspondent(child, "company-x");
    const { wire, message, sha256 } = await letters.write("acceptance", { act: toBase64(utf8("x")) });
    const read = readWire(wire);
    expect(read.message).toEqual(message);
    expect(read.sha256).toBe(sha256);
    expect(Buffer.from(read.body).toString()).toBe('{"act":"eA=="}');
  });

  it("refuses anything else, with a typed refusal", async () => {
    const { wire } = await new Correspondent(child, "company-x").write("acceptance", { act: "" });
    const mutated = fc
      .tuple(fc.nat(wire.length - 1), fc.integer({ min: 1, max: 255 }))
      .map(([at, flip]) => wire.map((byte, i) => (i === at ? byte ^ flip : byte)));
    await fc.assert(
      fc.asyncProperty(fc.oneof(fc.uint8Array({ maxLength: 300 }), mutated), async (bytes) => {
        const code = await codeOf(inbox.receive(bytes));
        expect(["envelope-invalid", "envelope-forged", "input-too-large", "sender-unknown"]).toContain(code);
      }),
      { numRuns: 300 },
    );
    expect(await kept()).toEqual(NOTHING);
  });

  it("bounds what a stranger's join may weigh, and hashes nobody's body before it knows whose it is", async () => {
    const long = { act: "A".repeat(300_000) };
    const join = await new Correspondent(stranger, "company-x").write("join", long as never);
    expect(await codeOf(inbox.receive(join.wire))).toBe("input-too-large");
    const list = await new Correspondent(stranger, "company-x").write("handoff-release", long as never);
    list.wire[list.wire.length - 3]! ^= 1;
    expect(await codeOf(inbox.receive(list.wire))).toBe("sender-unknown");
    expect(await kept()).toEqual(NOTHING);
  });

  it("bounds the envelope's line", async () => {
    expect(await codeOf(inbox.receive(new Uint8Array(100_000).fill(0x20)))).toBe("envelope-invalid");
  });
});
