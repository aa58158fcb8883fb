import { randomBytes } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";
import { Client, Connection } from "@temporalio/client";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { nodeVerify } from "../../hsm/index.ts";
import { fromBase64, toBase64, utf8 } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { KEY_TYPE, noteKey, parseNote } from "../../lib/ledger/note.ts";
import type { Certificate } from "../../lib/pki/certificate.ts";
import { parseCsr } from "../../lib/pki/csr.ts";
import { parseEntry } from "../../lib/records/statement.ts";
import type { Grant } from "../../lib/records/grant.ts";
import type { Body, Invitation } from "../../lib/records/message.ts";
import { sha256Hex } from "../../services/ledger/sha256.ts";
import { ENVELOPE_MEDIA_TYPE, readBody } from "../../services/parties/envelope.ts";
import { checkJoin } from "../../services/parties/join.ts";
import { findCurrentGrant, rootPin } from "../../store/grants.ts";
import {
  callSite,
  childSiteConfig,
  grantTo,
  invitationFrom,
  paperParent,
  selfSignedRoot,
  signChildCa,
  startChildSite,
} from "../../test/support/child-site.ts";
import { type Correspondent, signedAct, type TestParty } from "../../test/support/parties.ts";
import type { HttpsServer } from "../http/server.ts";
import type { SiteConfig } from "./config.ts";
import type { Site } from "./site.ts";
import { openConfigured } from "./tokens.ts";

/**
 * A real child site (HTTPS, Postgres, Temporal, SoftHSM) and a parent whose every word is this test's: it holds the act
 * key that the invitation pins, and sends what an honest parent never would.
 */
let site: Site;
let config: SiteConfig;
let parent: TestParty;
let inbox: HttpsServer;
let letters: Correspondent;
let root: Certificate;
let join_: Body<"join">;
let invitation: Invitation;
/** The id of an invitation that the parent takes no join by. */
const SPENT = "c0b1e5d2-6f0a-4c7e-8f55-3a1d9b7e2c10";
const received: { type: string; body: Uint8Array }[] = [];

beforeAll(async () => {
  ({ parent, root, letters, inbox } = await paperParent((type, body) => {
    if (type === "join" && readBody("join", body).invitation === SPENT) {
      throw new CountersignError("invitation-spent", "the invitation was used already");
    }
    received.push({ type, body });
  }));
  config = await childSiteConfig("y", {}, { secondLogKey: "log-p256" });
  site = await startChildSite(config);
  invitation = invitationFrom(parent, "0b9f3d0e-7f0f-4f0e-9d55-0a6a6f8f6a11");
});
afterAll(async () => {
  await site?.stop();
  await inbox?.close();
  await parent?.close();
});

const sign = (change: Parameters<typeof signChildCa>[3] = {}) => signChildCa(parent, root, join_, change);
const honestGrant = async (change: Partial<Grant> = {}, certificate?: Uint8Array): Promise<Grant> =>
  grantTo(join_, invitation, root, { certificate: toBase64(certificate ?? (await sign())), ...change });

async function delegation(
  fields: Grant,
  upstream: Uint8Array[] = [root.der],
  from = parent,
): Promise<Body<"delegation">> {
  const subject = [{ name: "factory-y", digest: { sha256: "0".repeat(64) } }];
  const { entry } = await signedAct(from, { type: "delegation", subject, prev: [], fields });
  return { act: toBase64(entry), upstream: upstream.map(toBase64) };
}

const call = (method: string, path: string, options?: Parameters<typeof callSite>[3]) =>
  callSite(config, method, path, options);
const post = (path: string, body: unknown, role = "operator") =>
  call("POST", path, { role, body: JSON.stringify(body) });
const deliver = async (body: Body<"delegation">): Promise<string> => {
  const { wire, message } = await letters.write("delegation", body);
  expect(await call("POST", "/inbox", { body: wire, type: ENVELOPE_MEDIA_TYPE })).toMatchObject({ status: 200 });
  return message.id;
};

interface Enrolment {
  state: string;
  delegation: string | null;
  error_code: string | null;
}
const enrolment = async (): Promise<Enrolment | undefined> =>
  (await site.db.query<Enrolment>("SELECT state, delegation, error_code FROM enrolment")).rows[0];

async function until<T>(look: () => Promise<T | undefined | false>, what: string): Promise<T> {
  for (const deadline = Date.now() + 20_000; ; await sleep(50)) {
    const found = await look();
    if (found !== undefined && found !== false) return found;
    if (Date.now() > deadline) throw new Error(`${what} didn't happen in time: ${JSON.stringify(await enrolment())}`);
  }
}

describe("a child site", () => {
  it("lets nobody but its operators in", async () => {
    expect(await call("GET", "/healthz")).toMatchObject({ status: 200 });
    expect(await call("GET", "/readyz")).toMatchObject({ status: 200 });
    for (const path of ["/api/v1/site", "/api/v1/parties", "/api/v1/joins"]) {
      expect(await call("GET", path)).toMatchObject({ status: 401, body: { code: "unauthorized" } });
    }
    expect(await call("GET", "/api/v1/site", { role: "operator" })).toMatchObject({
      status: 200,
      body: { party: "factory-y", grant: null, rootSha256: null },
    });
    for (const role of ["station", "technician"]) {
      expect(await post("/api/v1/joins", { invitation }, role)).toMatchObject({ status: 401 });
      expect(await post("/api/v1/invitations", { to: "x" }, role)).toMatchObject({ status: 401 });
      expect(await post("/api/v1/delegations", {}, role)).toMatchObject({ status: 401 });
    }
  });

  it("shows people a page that runs nothing", async () => {
    const { status, body } = await call("GET", "/");
    expect(status).toBe(200);
    expect(body["text"]).toContain("<h1>Factory-Y</h1>");
    expect(body["text"]).not.toContain("<script");
  });

  it("delegates nothing before it holds a grant", async () => {
    const grant = { idPrefixes: ["d"], profiles: ["idevid"], quota: 1, pathLen: 0, depth: 0 };
    const window = { notBefore: "2026-01-01T00:00:00.000Z", notAfter: "2040-01-01T00:00:00.000Z" };
    expect(await post("/api/v1/delegations", { to: "technician-z", grant: { ...grant, ...window } })).toMatchObject({
      body: { code: "grant-missing" },
    });
  });

  it.each([
    ["for another party", () => ({ ...invitation, to: "factory-q" })],
    ["that has expired", () => ({ ...invitation, expires: "2020-01-01T00:00:00.000Z" })],
  ])("takes no invitation %s", async (_what, change) => {
    expect(await post("/api/v1/joins", { invitation: change() })).toMatchObject({
      body: { code: "invitation-invalid" },
    });
    expect(await enrolment()).toBeUndefined();
  });

  it("is refused by a spent invitation, and free to take another", async () => {
    const nonce = randomBytes(32).toString("base64url");
    expect(await post("/api/v1/joins", { invitation: { ...invitation, id: SPENT, nonce } })).toMatchObject({
      status: 202,
    });
    await until(async () => (await enrolment())?.state === "refused", "the refusal");
    expect(await enrolment()).toMatchObject({ error_code: "invitation-spent" });
  });

  it("joins: its own key, the nonce in the request, and a keyset in its ledger", async () => {
    expect(await post("/api/v1/joins", { invitation })).toMatchObject({ status: 202, body: { parent: "company-x" } });
    const { body } = await until(async () => received.find(({ type }) => type === "join"), "the join");
    join_ = readBody("join", body);
    const csr = parseCsr(fromBase64(join_.csr));
    expect(csr.challengePassword).toBe(invitation.nonce);
    expect(csr.subjectCn).toBe("Factory-Y CA");
    expect(await checkJoin("factory-y", join_, nodeVerify)).toMatchObject({ csrSha256: sha256Hex(csr.der) });
    // Posting it again is the same join.
    expect(await post("/api/v1/joins", { invitation })).toMatchObject({ status: 202 });
  });

  it("keeps the nonce out of Temporal's history", async () => {
    const { address, namespace } = config.temporal;
    const connection = await Connection.connect({ address });
    try {
      const handle = new Client({ connection, namespace }).workflow.getHandle("acceptance/factory-y");
      const history = Buffer.from(JSON.stringify(await handle.fetchHistory())).toString();
      const payloads = [...history.matchAll(/"data":"([^"]+)"/g)].map(([, data]) =>
        Buffer.from(data!, "base64").toString(),
      );
      expect(payloads.join("\n")).toContain("company-x");
      expect(`${history}${payloads.join("\n")}`).not.toContain(invitation.nonce);
    } finally {
      await connection.close();
    }
  });

  const wrongs: [string, string, () => Promise<Body<"delegation">>][] = [
    [
      "a certificate for another key",
      "grant-mismatch",
      async () => delegation(await honestGrant({}, await sign({ spki: parent.infra.key.spki }))),
    ],
    [
      "a certificate under another name",
      "grant-mismatch",
      async () => delegation(await honestGrant({}, await sign({ commonName: "Factory-Q CA" }))),
    ],
    [
      "a shorter path than the grant says",
      "grant-mismatch",
      async () => delegation(await honestGrant({}, await sign({ pathLen: 0 }))),
    ],
    ["a grant for another party", "grant-mismatch", async () => delegation(await honestGrant({ child: "factory-q" }))],
    [
      "a grant of another request",
      "grant-mismatch",
      async () => delegation(await honestGrant({ csrSha256: "0".repeat(64) })),
    ],
    [
      "a grant of another invitation",
      "grant-mismatch",
      async () => delegation(await honestGrant({ nonceSha256: "0".repeat(64) })),
    ],
    [
      "a keyset with another act key",
      "grant-mismatch",
      async () => {
        const grant = await honestGrant();
        return delegation({ ...grant, keyset: { ...grant.keyset, act: toBase64(parent.identity.act.spki) } });
      },
    ],
    [
      "another issuer than the certificate's",
      "grant-mismatch",
      async () => delegation(await honestGrant({ issuer: toBase64(parent.infra.key.spki) })),
    ],
    [
      "a root that didn't sign it",
      "path-invalid",
      async () => {
        const other = await selfSignedRoot(parent, "Company-X Root", parent.infra.key);
        return delegation(await honestGrant({ issuer: toBase64(other.spki) }), [other.der]);
      },
    ],
    [
      "a certificate with a broken signature",
      "path-invalid",
      async () => {
        const certificate = await sign();
        certificate[certificate.length - 1]! ^= 1;
        return delegation(await honestGrant({}, certificate));
      },
    ],
    [
      "a window that is over",
      "grant-expired",
      async () => delegation(await honestGrant({ notAfter: "2021-01-01T00:00:00.000Z" })),
    ],
    [
      "an act that the parent's act key didn't sign",
      "act-invalid",
      async () => {
        const act = await parent.token.generateKey({
          label: `other-${randomBytes(2).toString("hex")}`,
          algorithm: "ec-p256",
        });
        return delegation(await honestGrant(), [root.der], { ...parent, identity: { ...parent.identity, act } });
      },
    ],
    [
      "an act of another log",
      "act-invalid",
      async () =>
        delegation(await honestGrant(), [root.der], {
          ...parent,
          identity: { ...parent.identity, origin: "countersign.example/elsewhere" },
        }),
    ],
  ];

  it.each(wrongs)("refuses %s (%s)", async (_what, code, make) => {
    const message = await deliver(await make());
    const refused = await until(async () => {
      const row = await enrolment();
      return row?.delegation === message && row;
    }, "the refusal");
    expect(refused).toMatchObject({ state: "refused", error_code: code });
    expect(await findCurrentGrant(site.db)).toBeUndefined();
    expect(await rootPin(site.db)).toBeUndefined();
    const told = () => {
      const { type, body } = received.at(-1)!;
      return type === "grant-refused" && readBody("grant-refused", body).code === code;
    };
    await until(async () => told(), "the parent's hearing of it");
    expect(received.some(({ type }) => type === "acceptance")).toBe(false);
  });

  it("accepts what it asked for, pins the root, and says so", async () => {
    // Nobody could sign under a grant whose acceptance isn't in the ledger's queue before it.
    await site.db.query(`CREATE FUNCTION accepted_first() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NOT EXISTS (SELECT FROM ledger_act WHERE type = 'acceptance' AND entry IS NOT NULL) THEN
          RAISE 'a grant is current before it is accepted';
        END IF;
        RETURN NEW;
      END $$`);
    await site.db.query(
      "CREATE TRIGGER accepted_first BEFORE INSERT ON grant_received FOR EACH ROW EXECUTE FUNCTION accepted_first()",
    );
    // While the first CRL is being made the grant ends: what was accepted stays accepted, and the parent hears of it.
    const notAfter = new Date(Date.now() + 5_000);
    const hold = await site.db.connect();
    try {
      await hold.query("BEGIN");
      await hold.query("LOCK TABLE crl IN ACCESS EXCLUSIVE MODE");
      await deliver(await delegation(await honestGrant({ notAfter: notAfter.toISOString() })));
      await until(() => findCurrentGrant(site.db), "the grant");
      expect(await enrolment()).toMatchObject({ state: "accepted", error_code: null });
      await sleep(Math.max(0, notAfter.getTime() - Date.now()) + 100);
      await hold.query("ROLLBACK");
    } finally {
      hold.release(true);
    }
    const { body } = await until(async () => received.find(({ type }) => type === "acceptance"), "the acceptance");
    const { act } = parseEntry(fromBase64(readBody("acceptance", body).act));
    const grant = await findCurrentGrant(site.db);
    expect(act).toMatchObject({ type: "acceptance", party: "factory-y", grant: grant!.ref });
    expect(Buffer.from((await rootPin(site.db))!.certificate)).toEqual(Buffer.from(root.der));
    expect(await enrolment()).toMatchObject({ state: "accepted", error_code: null });
    const { body: view } = await call("GET", "/api/v1/site", { role: "operator" });
    expect(view).toMatchObject({
      parent: "company-x",
      grant: { quota: 10, used: 0 },
      crl: expect.stringContaining("X509 CRL"),
    });
  });

  it("signs its checkpoints on a second line by the key that its configuration names", async () => {
    const response = await fetch(`${config.gateway.publicUrl}/ledger/checkpoint`);
    const { text, signatures } = parseNote(new Uint8Array(await response.arrayBuffer()));
    const own = signatures.filter(({ name }) => name === config.origin);
    expect(own).toHaveLength(2);
    const token = await openConfigured({ ...config.hsm, sessions: 1 }, config.hsm.tokens.site);
    try {
      const { spki } = await token.signer("log-p256");
      expect(own[1]!.keyId).toBe(noteKey(config.origin, KEY_TYPE.ecdsa, spki).keyId);
      const check = {
        spki,
        algorithm: "ecdsa-p256-sha256",
        message: utf8(text),
        signature: own[1]!.signature,
      } as const;
      expect(nodeVerify(check)).toBe(true);
    } finally {
      await token.close();
    }
  });

  it("doesn't change its root for a later grant", async () => {
    const before = await findCurrentGrant(site.db);
    const other = await selfSignedRoot(parent, "Another Root");
    const certificate = await sign();
    const message = await deliver(await delegation(await honestGrant({ revision: 2 }, certificate), [other.der]));
    await until(async () => {
      const { rows } = await site.db.query("SELECT 1 FROM inbox WHERE id = $1 AND applied IS NOT NULL", [message]);
      return rows.length === 1;
    }, "the message's effect");
    await until(async () => (await enrolment())?.error_code ?? undefined, "the reason");
    expect(await findCurrentGrant(site.db)).toEqual(before);
    // What it has stays in force, and its operators see what it didn't take.
    expect((await call("GET", "/api/v1/parties/company-x", { role: "operator" })).body).toMatchObject({
      enrolment: { state: "accepted", error: { code: "grant-mismatch" } },
    });
  });
});
