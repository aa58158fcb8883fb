import { randomBytes, randomUUID } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { DelegationActivities } from "../contracts/parties.ts";
import { nodeVerify } from "../hsm/index.ts";
import { toBase64 } from "../lib/domain/bytes.ts";
import type { Certificate } from "../lib/pki/certificate.ts";
import type { Grant, GrantTerms } from "../lib/records/grant.ts";
import { rotationChallenge } from "../lib/records/rotation.ts";
import { parseEntry } from "../lib/records/statement.ts";
import { Acts, createLedger } from "../services/ledger/index.ts";
import { acceptanceStep } from "../services/parties/acceptance-act.ts";
import { Inbox } from "../services/parties/inbox.ts";
import { noteRefusal } from "../services/parties/refused-grant.ts";
import { profileRefs } from "../services/parties/terms.ts";
import { inTransaction, type Db } from "../store/db.ts";
import { getDelegation, requestDelegation, requestRenewal, storeAcceptance } from "../store/delegations.ts";
import { storeGrant } from "../store/grants.ts";
import { selfSignedRoot } from "../test/support/child-site.ts";
import { softhsmDir } from "../test/support/index.ts";
import {
  Correspondent,
  invite,
  joinBody,
  makeTestParty,
  siteDatabase,
  type TestParty,
} from "../test/support/parties.ts";
import { delegationActivities } from "./delegation.ts";

/** Factory-Y renews Technician-Z's CA while its own grant is renewed, and after a child has said no. */

let db: Db;
let factory: TestParty;
let child: TestParty;
let ca: Certificate;
let letters: Correspondent;
let acts: Acts;
let run: DelegationActivities;
const PARENT = "countersign.example/company-x";

beforeAll(async () => {
  const hsm = softhsmDir();
  [factory, child] = [await makeTestParty(hsm, "factory-y"), await makeTestParty(hsm, "technician-z")];
  ca = await selfSignedRoot(factory, "Factory-Y CA");
  db = await siteDatabase();
  const { identity } = factory;
  await createLedger({ db, origin: identity.origin, signer: identity.log });
  acts = new Acts({ db, origin: identity.origin, party: identity.party });
  const caToken = { caKey: async () => factory.ca } as unknown as Parameters<typeof delegationActivities>[0]["caToken"];
  run = delegationActivities({ db, identity, acts, caToken });
  letters = new Correspondent(child, "factory-y");
  await take(await letters.write("join", await joinBody(child, await invite(db, factory, "technician-z"))));
  await hold("a".repeat(64));
  await inTransaction(db, (tx) => requestDelegation(tx, "technician-z", TERMS, "site"));
});
afterAll(async () => {
  acts?.close();
  await db?.end();
  await Promise.all([factory?.close(), child?.close()]);
});

const TERMS: GrantTerms = {
  idPrefixes: ["dev-z-"],
  profiles: ["idevid"],
  quota: 40,
  notBefore: "2026-06-01T00:00:00.000Z",
  notAfter: "2039-01-01T00:00:00.000Z",
  pathLen: 0,
  depth: 0,
  mayBuild: false,
  caProfile: "intermediate-embedded",
};

async function take({ wire }: { wire: Uint8Array }): Promise<string> {
  return (await new Inbox({ db, party: "factory-y", verify: nodeVerify }).receive(wire)).id;
}

/** Factory-Y's own grant, accepted. */
async function hold(leafHash: string): Promise<void> {
  const ref = { origin: PARENT, leafHash };
  const fields = {
    ...{ id: "factory-y-1", revision: 1, issuer: "", child: "factory-y", certificate: toBase64(ca.der) },
    ...{ csrSha256: "0".repeat(64), nonceSha256: "0".repeat(64), idPrefixes: ["dev-"] },
    ...{ profiles: profileRefs(["idevid"]), quota: 100, notBefore: "2026-01-01T00:00:00.000Z" },
    ...{ notAfter: "2040-01-01T00:00:00.000Z", pathLen: 2, depth: 2, mayBuild: false, approvals: { threshold: 0 } },
  } as unknown as Grant;
  const entry = new Uint8Array(1);
  await inTransaction(db, (tx) =>
    storeGrant(tx, { ref, parent: "company-x", entry, fields, certificate: ca.der, upstream: [] }),
  );
  await acts.recordSigned(
    {
      type: "acceptance",
      ...acceptanceStep("factory-y", leafHash),
      subject: [{ name: "factory-y", digest: { sha256: "0".repeat(64) } }],
      grant: ref,
      fields: { keyset: { origin: factory.identity.origin, leafHash: "1".repeat(64) }, chainSha256: "2".repeat(64) },
    },
    factory.identity.act,
  );
}

async function delegate(): Promise<string> {
  const child_ = { child: "technician-z" };
  await run.prepareDelegation(child_);
  await run.signDelegation(child_);
  const { leafHash } = await run.recordDelegation(child_);
  await run.sendDelegation(child_);
  return leafHash;
}

async function sent(): Promise<number> {
  return (await db.query("SELECT 1 FROM outbox WHERE type = 'delegation'")).rows.length;
}

const renew = () => inTransaction(db, (tx) => requestRenewal(tx, "technician-z", undefined));
const refusal = async (grant: string): Promise<string> =>
  take(await letters.write("grant-refused", { grant, code: "grant-mismatch", message: "not what I asked for" }));

describe("a delegation that is in the ledger", () => {
  it("is found again, whatever this site's own grant is by now", async () => {
    const leafHash = await delegate();
    await hold("b".repeat(64));
    expect(await delegate()).toBe(leafHash);
    // As a restored database has it, whose rebuilding gave the certificate back.
    await db.query("UPDATE delegation SET state = 'requested', act_leaf_hash = NULL, act_entry = NULL");
    await hold("c".repeat(64));
    expect(await delegate()).toBe(leafHash);
    expect(await getDelegation(db, "technician-z")).toMatchObject({ state: "issued", actLeafHash: leafHash });
    expect(await sent()).toBe(1);
  });

  it("stands against another certificate for the same revision", async () => {
    const { certificate } = await getDelegation(db, "technician-z");
    await db.query("UPDATE delegation SET certificate = $1", [randomBytes(64)]);
    await expect(run.recordDelegation({ child: "technician-z" })).rejects.toMatchObject({ type: "act-conflict" });
    await db.query("UPDATE delegation SET certificate = $1", [certificate]);
  });
});

describe("a child that doesn't take its grant", () => {
  it("is heard, and sent the same once more when somebody asks for it", async () => {
    const { actLeafHash } = await getDelegation(db, "technician-z");
    await inTransaction(db, (tx) =>
      storeAcceptance(tx, "technician-z", { leafHash: "3".repeat(64), entry: randomBytes(9) }),
    );
    await renew();
    const leafHash = await delegate();
    expect([leafHash === actLeafHash, await sent()]).toEqual([false, 2]);

    // About an earlier grant: no answer to this one.
    await noteRefusal(db, await refusal(actLeafHash!));
    expect(await getDelegation(db, "technician-z")).toMatchObject({ errorCode: null, refusedBy: null });
    const message = await refusal(leafHash);
    await noteRefusal(db, message);
    await noteRefusal(db, message);
    expect(await getDelegation(db, "technician-z")).toMatchObject({
      ...{ state: "issued", revision: 2, refusedBy: message },
      ...{ errorCode: "grant-mismatch", errorMessage: "not what I asked for" },
    });

    await renew();
    expect(await getDelegation(db, "technician-z")).toMatchObject({ state: "issued", errorCode: null });
    expect([await delegate(), await delegate(), await sent()]).toEqual([leafHash, leafHash, 3]);
  });

  it("says nothing about a grant that it has accepted", async () => {
    const { actLeafHash } = await getDelegation(db, "technician-z");
    await inTransaction(db, (tx) =>
      storeAcceptance(tx, "technician-z", { leafHash: "4".repeat(64), entry: randomBytes(9) }),
    );
    await noteRefusal(db, await refusal(actLeafHash!));
    expect(await getDelegation(db, "technician-z")).toMatchObject({ state: "accepted", errorCode: null });
    await expect(noteRefusal(db, randomUUID())).rejects.toMatchObject({ code: "not-found" });
  });

  it("gets one for its second new key, recorded and sent, where the first was lost", async () => {
    const { actLeafHash, revision } = await getDelegation(db, "technician-z");
    const supersedes = { origin: factory.identity.origin, leafHash: actLeafHash! };
    const ask = async (label: string): Promise<string> => {
      const key = await child.token.generateCaKey({ label, algorithm: "ec-p256" });
      const [old, next] = [child.ca.spki, key.spki].map(toBase64) as [string, string];
      const challengePassword = rotationChallenge({ party: "technician-z", supersedes, old, new: next });
      const name = { cn: "TECHNICIAN-Z CA", organization: "TECHNICIAN-Z", challengePassword };
      const proofs = { old: await child.ca.signRequest(name), new: await key.signRequest(name) };
      const body = { supersedes, old: toBase64(proofs.old), new: toBase64(proofs.new) };
      await take(await letters.write("rotation", body));
      return next;
    };
    await ask("ca-lost");
    const lost = await delegate();
    await noteRefusal(db, await refusal(lost));
    const before = await sent();
    const ca = await ask("ca-next");
    const leafHash = await delegate();
    expect([await delegate(), await sent()]).toEqual([leafHash, before + 1]);
    const { act } = parseEntry((await getDelegation(db, "technician-z")).actEntry!);
    expect(act).toMatchObject({
      type: "delegation",
      fields: { ca, revision: revision + 2, quota: 40, supersedes: { ...supersedes, leafHash: lost } },
    });
    expect(act.prev).toContainEqual({ ...supersedes, leafHash: lost });
  });
});
