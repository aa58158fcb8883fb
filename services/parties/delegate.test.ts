import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { nodeVerify, type CaKey } from "../../hsm/index.ts";
import { fromBase64, toBase64 } from "../../lib/domain/bytes.ts";
import { newSerial } from "../../lib/pki/serial.ts";
import { parseCertificate, type Certificate } from "../../lib/pki/certificate.ts";
import { parseCsr } from "../../lib/pki/csr.ts";
import { selfIssuer } from "../../lib/pki/issuer.ts";
import { lintTbs } from "../../lib/pki/lint.ts";
import { PROFILES } from "../../lib/pki/profiles.ts";
import { buildTbs } from "../../lib/pki/tbs.ts";
import { NO_EXPIRY, wholeSeconds } from "../../lib/pki/time.ts";
import type { Grant, GrantTerms } from "../../lib/records/grant.ts";
import type { Body } from "../../lib/records/message.ts";
import { rotationChallenge, type RotationOf } from "../../lib/records/rotation.ts";
import { randomBytes, randomUUID } from "node:crypto";
import { keyId } from "../../lib/pki/spki.ts";
import { findIntent, storeCaCertificate } from "../../store/authority.ts";
import { inTransaction, type Db } from "../../store/db.ts";
import {
  getDelegation,
  noteRefusedGrant,
  refuseDelegation,
  requestDelegation,
  requestRenewal,
  storeAcceptance,
  storeDelegationAct,
  type Delegation,
} from "../../store/delegations.ts";
import { adoptDelegation, adoptRevocation } from "../../store/recovery.ts";
import { crlEntries } from "../../store/revocations.ts";
import { currentGrant, debitQuota, findCurrentGrant, pinRoot, storeGrant } from "../../store/grants.ts";
import {
  Correspondent,
  invite,
  joinBody,
  makeTestParty,
  siteDatabase,
  type TestParty,
} from "../../test/support/parties.ts";
import { softhsmDir } from "../../test/support/index.ts";
import {
  delegationIntent,
  grantFields,
  lockStanding,
  onlineIssuer,
  prepareChild,
  signChild,
  type Issuer,
} from "./delegate.ts";
import { checkRenewal } from "./grant-check.ts";
import { Inbox } from "./inbox.ts";
import { orderRevocation } from "./revoke.ts";
import { admitRotation } from "./rotation-request.ts";
import { rootRequestFault } from "./root-request.ts";
import { profileRefs } from "./terms.ts";

/** Factory-Y as a grantor: its own grant, its online CA key, and a child that has joined. */
let db: Db;
let factory: TestParty;
let child: TestParty;
let ca: Certificate;
const NOW = new Date("2027-01-01T00:00:00.000Z");

beforeAll(async () => {
  const hsm = softhsmDir();
  factory = await makeTestParty(hsm, "factory-y");
  child = await makeTestParty(hsm, "technician-z");
  ca = await selfSigned(factory.ca);
  db = await siteDatabase();
});
afterAll(async () => {
  await db?.end();
  await Promise.all([factory?.close(), child?.close()]);
});
beforeEach(async () => {
  await db.query("TRUNCATE peer, invitation, delegation, inbox, outbox, ca_intent, grant_received, root_pin CASCADE");
  const { wire } = await new Correspondent(child, "factory-y").write(
    "join",
    await joinBody(child, await invite(db, factory, "technician-z")),
  );
  await new Inbox({ db, party: "factory-y", verify: nodeVerify }).receive(wire);
});

async function selfSigned(key: CaKey): Promise<Certificate> {
  const subject = { organization: "Factory-Y", commonName: "Factory-Y CA" };
  const validity = { notBefore: wholeSeconds(new Date("2026-01-01T00:00:00Z")), notAfter: NO_EXPIRY };
  const issuer = selfIssuer({ name: subject, spki: key.spki, ...validity });
  const tbs = buildTbs(PROFILES.root, { issuer, serial: newSerial(randomBytes), ...validity, subject, spki: key.spki });
  return parseCertificate(await key.signCertificate(lintTbs(tbs, PROFILES.root, issuer)));
}

const OWN: Omit<Grant, "keyset"> = {
  id: "factory-y-1",
  revision: 1,
  issuer: "",
  child: "factory-y",
  certificate: "",
  csrSha256: "0".repeat(64),
  nonceSha256: "0".repeat(64),
  idPrefixes: ["dev-"],
  profiles: profileRefs(["idevid", "ldevid"]),
  quota: 100,
  notBefore: "2026-01-01T00:00:00.000Z",
  notAfter: "2030-01-01T00:00:00.000Z",
  pathLen: 2,
  depth: 2,
  mayBuild: false,
  approvals: { threshold: 0 },
};

async function hold(change: Partial<Grant> = {}, leafHash = "a".repeat(64)): Promise<void> {
  const fields = { ...OWN, ...change, certificate: toBase64(ca.der) } as Grant;
  const ref = { origin: "countersign.example/company-x", leafHash };
  await inTransaction(db, (tx) =>
    storeGrant(tx, { ref, parent: "company-x", entry: new Uint8Array(1), fields, certificate: ca.der, upstream: [] }),
  );
}

const TERMS: GrantTerms = {
  idPrefixes: ["dev-z-"],
  profiles: ["idevid"],
  quota: 40,
  notBefore: "2026-06-01T00:00:00.000Z",
  notAfter: "2029-01-01T00:00:00.000Z",
  pathLen: 1,
  depth: 1,
  mayBuild: false,
  caProfile: "intermediate-embedded",
};
const ask = (change: Partial<GrantTerms> = {}): Promise<void> =>
  inTransaction(db, (tx) => requestDelegation(tx, "technician-z", { ...TERMS, ...change }, "site"));
const issuer = async (): Promise<Issuer> => onlineIssuer(await currentGrant(db), "http://127.0.0.1:1");
const prepare = async (now = NOW): Promise<void> => prepareChild(db, "technician-z", await issuer(), now);
const used = async (): Promise<number | undefined> => (await findCurrentGrant(db))?.used;

describe("an online CA", () => {
  it("signs the child's CA once, for one debit, however often and at once it is asked", async () => {
    await hold();
    await ask();
    await Promise.all([prepare(), prepare(), prepare()]);
    const by = await issuer();
    const signed = await Promise.all([1, 2, 3].map(() => signChild(db, "technician-z", by, factory.ca)));
    await prepare();
    expect(new Set(signed.map(toBase64)).size).toBe(1);
    const certificate = parseCertificate(signed[0]!);
    expect(Buffer.from(certificate.spki)).toEqual(Buffer.from(child.ca.spki));
    expect(certificate.basicConstraints).toMatchObject({ ca: true, pathLen: 1 });
    expect(await used()).toBe(40);
  });

  const refusals: [string, string, Partial<GrantTerms>, Partial<Grant>, Date?][] = [
    ["more devices than it has", "quota-exceeded", { quota: 101 }, {}],
    ["building, which its own doesn't allow", "grant-exceeded", { mayBuild: true }, {}],
    ["a prefix outside its own", "grant-exceeded", { idPrefixes: ["dev-z-", "de"] }, {}],
    ["an earlier window", "grant-exceeded", { notBefore: "2025-12-31T23:59:59.999Z" }, {}],
    ["a later window", "grant-exceeded", { notAfter: "2030-01-01T00:00:00.001Z" }, {}],
    ["a window that is over", "grant-exceeded", { notAfter: "2026-12-31T00:00:00.000Z" }, {}],
    ["a profile it has not", "profile-not-granted", { profiles: ["idevid", "server"] }, {}],
    [
      "a profile of other content",
      "profile-not-granted",
      {},
      { profiles: [{ name: "idevid", sha256: "1".repeat(64) }] },
    ],
    ["as deep a tree as its own", "delegation-too-deep", { depth: 2, pathLen: 2 }, { pathLen: 3 }],
    ["as long a path as its own", "delegation-too-deep", { depth: 0, pathLen: 2 }, {}],
    ["anything at depth 0", "delegation-too-deep", { depth: 0, pathLen: 0 }, { depth: 0 }],
    ["anything after its grant", "grant-expired", {}, { notAfter: "2026-12-31T00:00:00.000Z" }],
    ["anything before its grant", "grant-not-yet-valid", {}, { notBefore: "2027-06-01T00:00:00.000Z" }],
  ];
  it.each(refusals)("gives away not %s (%s), and nothing is stored", async (_what, code, terms, own) => {
    await hold(own);
    await ask(terms);
    await expect(prepare()).rejects.toMatchObject({ code });
    expect(await findIntent(db, delegationIntent({ child: "technician-z", revision: 1 }))).toBeUndefined();
    expect(await used()).toBe(0);
    await expect(issuer().then((by) => signChild(db, "technician-z", by, factory.ca))).rejects.toMatchObject({
      code: "not-found",
    });
  });

  it("signs nothing that no operator asked for", async () => {
    await hold();
    await expect(prepare()).rejects.toMatchObject({ code: "unauthorized" });
    await expect(issuer().then((by) => signChild(db, "technician-z", by, factory.ca))).rejects.toMatchObject({
      code: "unauthorized",
    });
  });

  it("signs nothing that was asked of the ceremony", async () => {
    await hold();
    await inTransaction(db, (tx) => requestDelegation(tx, "technician-z", TERMS, "ceremony"));
    await expect(prepare()).rejects.toMatchObject({ code: "unauthorized" });
  });

  it("takes no other terms once bytes are stored for the first ones", async () => {
    await hold();
    await ask();
    await ask();
    await prepare();
    await expect(ask({ quota: 41 })).rejects.toMatchObject({ code: "state-conflict" });
    expect((await getDelegation(db, "technician-z")).terms).toMatchObject({ quota: 40 });
  });

  it("begins again what was refused after its bytes were stored: the same terms, one debit", async () => {
    await hold();
    await ask();
    await prepare();
    await refuseDelegation(db, "technician-z", { code: "unauthorized", message: "no" });
    await expect(prepare()).rejects.toMatchObject({ code: "unauthorized" });
    await expect(ask({ quota: 41 })).rejects.toMatchObject({ code: "state-conflict" });
    await ask();
    await prepare();
    await signChild(db, "technician-z", await issuer(), factory.ca);
    expect(await getDelegation(db, "technician-z")).toMatchObject({ state: "requested", errorCode: null });
    expect(await used()).toBe(40);
  });

  it.each([
    ["another key", () => ({ spki: factory.infra.key.spki })],
    ["another name", () => ({ subject: { organization: "TECHNICIAN-Z", commonName: "Somebody else" } })],
    ["another path length", () => ({ pathLen: 0 })],
  ])("doesn't sign bytes that were swapped for ones with %s", async (_what, change) => {
    await hold();
    await ask();
    await prepare();
    const by = await issuer();
    const subject = { organization: "TECHNICIAN-Z", commonName: "TECHNICIAN-Z CA" };
    const swapped = buildTbs(PROFILES["intermediate-embedded"], {
      issuer: {
        ...selfIssuer({
          name: { organization: "Factory-Y", commonName: "Factory-Y CA" },
          spki: ca.spki,
          notBefore: ca.notBefore,
          notAfter: ca.notAfter,
        }),
        pathLen: undefined,
      },
      serial: newSerial(randomBytes),
      notBefore: wholeSeconds(NOW),
      notAfter: NO_EXPIRY,
      subject,
      spki: child.ca.spki,
      pathLen: 1,
      ...change(),
    });
    await db.query("UPDATE ca_intent SET tbs = $1", [swapped]);
    await expect(signChild(db, "technician-z", by, factory.ca)).rejects.toMatchObject({ code: "unauthorized" });
  });

  it("asks only the key that the intent names", async () => {
    await hold();
    await ask();
    await prepare();
    const by = await issuer();
    await expect(signChild(db, "technician-z", by, child.ca)).rejects.toMatchObject({ code: "unauthorized" });
  });
});

describe("a renewal of a child whose CA is revoked", () => {
  const revoke = (effect: "final" | "hold" | "lift" = "final") =>
    orderRevocation(db, { id: "technician-z" }, { effect, reason: "cACompromise", by: "operator" });
  const renew = (): Promise<void> => inTransaction(db, (tx) => requestRenewal(tx, "technician-z", undefined));
  const sign = async () => signChild(db, "technician-z", await issuer(), factory.ca);
  const conflict = { code: "state-conflict", message: expect.stringContaining("revoked or held") as string };
  const act = (leafHash: string) => ({ origin: factory.identity.origin, leafHash, entry: new Uint8Array(1) });

  beforeEach(async () => {
    await db.query("TRUNCATE revocation, ca_certificate CASCADE");
    await storeCaCertificate(db, { keyId: keyId(ca.spki), role: "ca", certificate: ca.der });
    await hold();
    await ask();
    await prepare();
    await sign();
    await storeDelegationAct(db, "technician-z", act("1".repeat(64)));
    await storeAcceptance(db, "technician-z", act("2".repeat(64)));
  });

  it("isn't begun, nor again after it was refused, until what was held is held no longer", async () => {
    await renew();
    await refuseDelegation(db, "technician-z", { code: "grant-expired", message: "no" });
    expect(await revoke("hold")).toMatchObject({ state: "ordered" });
    await expect(renew()).rejects.toMatchObject(conflict);
    await db.query("UPDATE revocation SET act_leaf = $1, time = now()", ["3".repeat(64)]);
    expect(await revoke("lift")).toMatchObject({ state: "ordered" });
    await renew();
    await prepare();
  });

  it("is found in the ledger after a restore, with the certificate before it: both are revoked, and stay so", async () => {
    const first = await getDelegation(db, "technician-z");
    await renew();
    await prepare();
    const certificate = await sign();
    // As the backup has it, from before the renewal.
    await db.query("DELETE FROM delegation_superseded");
    await db.query(
      `UPDATE delegation SET state = 'accepted', revision = 1, superseded_leaf_hash = NULL, superseded_certificate = NULL,
         certificate = $1, act_leaf_hash = $2, terms = $3`,
      [first.certificate, first.actLeafHash, JSON.stringify(first.terms)],
    );
    const logged = { child: "technician-z", certificate, ...act("4".repeat(64)), notAfter: "2029-06-01T00:00:00.000Z" };
    const adopt = (revision: number) => inTransaction(db, (tx) => adoptDelegation(tx, { ...logged, revision }));
    expect(await adopt(3)).toBe(false);
    expect(await adopt(2)).toBe(true);
    expect(await getDelegation(db, "technician-z")).toMatchObject({
      ...{ revision: 2, state: "issued", supersededLeafHash: "1".repeat(64), actLeafHash: "4".repeat(64) },
      terms: { ...TERMS, notAfter: logged.notAfter },
    });
    const serials = [first.certificate!, certificate].map((der) => parseCertificate(der).serial);
    expect(await revoke()).toMatchObject({ serials });
    await db.query("TRUNCATE revocation CASCADE");
    for (const [i, leaf] of ["1", "4"].entries()) {
      const revoked = {
        ...({ target: "ca", subject: "technician-z", subjectKeyId: keyId(child.ca.spki), effect: "final" } as const),
        ...{ reason: "cACompromise", invalidity: undefined, leafHash: String(5 + i).repeat(64), time: NOW },
        certificate: { act: leaf.repeat(64), serial: serials[i]! },
      };
      expect(await inTransaction(db, (tx) => adoptRevocation(tx, revoked))).toBe(true);
    }
    expect((await crlEntries(db, keyId(ca.spki))).map(({ serial }) => serial)).toEqual([...serials].sort());
  });

  it.each(["before its bytes are stored", "before they are signed", "before the certificate is recorded"])(
    "goes no further, when that is ordered %s",
    async (when) => {
      await renew();
      if (!when.includes("stored")) await prepare();
      if (when.includes("recorded")) await sign();
      expect(await revoke()).toMatchObject({ state: "ordered", serials: { length: 1 } });
      if (when.includes("stored")) await expect(prepare()).rejects.toMatchObject(conflict);
      else if (when.includes("signed")) await expect(sign()).rejects.toMatchObject(conflict);
      await expect(inTransaction(db, (tx) => lockStanding(tx, "technician-z"))).rejects.toMatchObject(conflict);
      expect((await findIntent(db, "delegation/technician-z/2"))?.result ?? null).toEqual(
        when.includes("recorded") ? expect.anything() : null,
      );
    },
  );
});

describe("a child that asks for a certificate for another CA key", () => {
  const of = (change: Partial<RotationOf> = {}): RotationOf => ({
    party: "technician-z",
    supersedes: { origin: factory.identity.origin, leafHash: "1".repeat(64) },
    old: toBase64(child.ca.spki),
    new: toBase64(next.spki),
    ...change,
  });
  const proof = async (key: CaKey, meant = of(), cn = "TECHNICIAN-Z CA"): Promise<string> =>
    toBase64(await key.signRequest({ cn, organization: "TECHNICIAN-Z", challengePassword: rotationChallenge(meant) }));
  const act = (leafHash: string) => ({ origin: factory.identity.origin, leafHash, entry: new Uint8Array(1) });
  let next: CaKey;
  let letters: Correspondent;
  const inbox = () => new Inbox({ db, party: "factory-y", verify: nodeVerify });
  const bodyOf = async (change: Partial<Body<"rotation">> = {}): Promise<Body<"rotation">> => ({
    ...{ supersedes: of().supersedes, old: await proof(child.ca), new: await proof(next) },
    ...change,
  });
  async function request(change: Partial<Body<"rotation">> = {}): Promise<unknown> {
    return inbox().receive((await letters.write("rotation", await bodyOf(change))).wire);
  }
  /** The same without a letter, which has to be sent anew after a refusal. */
  async function admit(change: Partial<Body<"rotation">> = {}): Promise<void> {
    const body = await bodyOf(change);
    await inTransaction(db, (tx) => admitRotation(tx, "technician-z", body, nodeVerify));
  }

  beforeAll(async () => {
    const label = "ca-2";
    next = (await child.token.hasKey(label))
      ? await child.token.caKey(label)
      : await child.token.generateCaKey({ label, algorithm: "ec-p256" });
  });
  beforeEach(async () => {
    await db.query("TRUNCATE revocation, ca_certificate, peer, invitation, delegation, inbox CASCADE");
    letters = new Correspondent(child, "factory-y");
    const { wire } = await letters.write("join", await joinBody(child, await invite(db, factory, "technician-z")));
    await inbox().receive(wire);
    await storeCaCertificate(db, { keyId: keyId(ca.spki), role: "ca", certificate: ca.der });
    await hold();
    await ask();
    await prepare();
    await signChild(db, "technician-z", await issuer(), factory.ca);
    await storeDelegationAct(db, "technician-z", act("1".repeat(64)));
    await storeAcceptance(db, "technician-z", act("2".repeat(64)));
  });

  it("gets one, under the terms it had and without any more quota", async () => {
    const before = await getDelegation(db, "technician-z");
    await request();
    await prepare();
    const der = await signChild(db, "technician-z", await issuer(), factory.ca);
    const certificate = parseCertificate(der);
    expect(toBase64(certificate.spki)).toBe(toBase64(next.spki));
    const was = parseCertificate(before.certificate!);
    expect([certificate.subject.der, certificate.notBefore]).toEqual([was.subject.der, was.notBefore]);
    const row = await getDelegation(db, "technician-z");
    expect(row).toMatchObject({ revision: 2, terms: TERMS, keyset: before.keyset, supersededLeafHash: "1".repeat(64) });
    const fields = grantFields(row, { origin: factory.identity.origin, issuerSpki: ca.spki, parentGrant: undefined });
    expect(fields).toMatchObject({ ca: toBase64(next.spki), quota: 40, keyset: { ca: toBase64(child.ca.spki) } });
    expect(await used()).toBe(40);
    // The same once more, as after its database was set back, begins nothing.
    await request();
    expect(await getDelegation(db, "technician-z")).toMatchObject({ revision: 2, csrSha256: row.csrSha256 });
  });

  it("is answered by an offline root for what its last key says alone, whatever the database holds", async () => {
    await request();
    const row = await getDelegation(db, "technician-z");
    const { origin } = factory.identity;
    const fault = (change: Partial<Delegation> = {}, root = ca, granted = "0".repeat(64)) =>
      rootRequestFault({ ...row, ...change }, { granted, origin, root }, nodeVerify);
    expect(await fault()).toBeUndefined();
    expect(await fault({}, ca, row.csrSha256)).toBeUndefined();
    expect(await fault({ rotationProof: null })).toContain("doesn't say so");
    expect(await fault({ rotationProof: fromBase64(await proof(factory.ca)) })).toContain("another key's");
    expect(await fault({ supersededLeafHash: "3".repeat(64) })).toContain("another change");
    expect(await fault({ csr: fromBase64(await proof(factory.ca)) })).toContain("another change");
    expect(await fault({ csr: fromBase64(await proof(next, of(), "Factory-Y CA")) })).toContain("another name");
    expect(await fault({ supersededCertificate: child.infra.certificate.der })).toContain("didn't sign");
    expect(await fault({ supersededCertificate: null })).toContain("nothing");
    // Once it is signed, the same request again is answered as before.
    await prepare();
    await signChild(db, "technician-z", await issuer(), factory.ca);
    const { certificate } = await getDelegation(db, "technician-z");
    expect(await fault({ certificate, rotationProof: null })).toBeUndefined();
  });

  it("may name another new key when it has refused the grant for the one it lost, and that order is closed", async () => {
    const conflict = { code: "state-conflict" };
    const issued = async (leafHash: string): Promise<void> => {
      await prepare();
      await signChild(db, "technician-z", await issuer(), factory.ca);
      await storeDelegationAct(db, "technician-z", act(leafHash));
    };
    const refused = (leafHash: string) =>
      noteRefusedGrant(db, "technician-z", {
        ...{ leafHash, message: randomUUID() },
        refusal: { code: "grant-mismatch", message: "another key" },
      });
    const asks = async (key: CaKey, old = child.ca, leafHash = "1".repeat(64)): Promise<unknown> => {
      const supersedes = { ...of().supersedes, leafHash };
      const meant = of({ supersedes, old: toBase64(old.spki), new: toBase64(key.spki) });
      return admit({ supersedes, old: await proof(old, meant), new: await proof(key, meant) });
    };
    const spare = async (label: string): Promise<CaKey> => {
      const there = await child.token.hasKey(label);
      return there ? child.token.caKey(label) : child.token.generateCaKey({ label, algorithm: "ec-p256" });
    };
    const [third, fourth] = [await spare("ca-3"), await spare("ca-4")];
    await request();
    await expect(asks(third)).rejects.toMatchObject(conflict);
    await issued("4".repeat(64));
    await expect(asks(third)).rejects.toMatchObject(conflict);
    expect(await refused("4".repeat(64))).toBe(true);
    // Nothing but the child's no to the very grant opens the way, and an offline root's sitting knows none.
    await inTransaction(db, (tx) => requestRenewal(tx, "technician-z", undefined));
    await expect(asks(third)).rejects.toMatchObject(conflict);
    await refused("4".repeat(64));
    await db.query("UPDATE delegation SET signer = 'ceremony'");
    await expect(asks(third)).rejects.toMatchObject(conflict);
    await db.query("UPDATE delegation SET signer = 'site'");
    await expect(asks(third, next, "4".repeat(64))).rejects.toMatchObject(conflict);
    await asks(third);
    expect(await getDelegation(db, "technician-z")).toMatchObject({
      ...{ revision: 3, state: "requested", supersededLeafHash: "4".repeat(64), refusedBy: null },
    });
    await expect(admit()).rejects.toMatchObject(conflict);
    await issued("5".repeat(64));
    await refused("5".repeat(64));
    // A key that was given up comes back for nobody; a second loss is as the first.
    await expect(admit()).rejects.toMatchObject({ code: "possession-unproven" });
    await asks(fourth);
    await issued("6".repeat(64));
    const row = await getDelegation(db, "technician-z");
    expect(row).toMatchObject({ revision: 4, terms: TERMS });
    expect(toBase64(parseCertificate(row.certificate!).spki)).toBe(toBase64(fourth.spki));
    expect(await used()).toBe(40);
    await storeAcceptance(db, "technician-z", act("7".repeat(64)));
    await expect(asks(third)).rejects.toMatchObject(conflict);
    // All that were signed, accepted or not, are revoked together.
    const order = { effect: "final", reason: "cACompromise", by: "operator" } as const;
    expect(await orderRevocation(db, { id: "technician-z" }, order)).toMatchObject({ serials: { length: 4 } });
  });

  it("never has a grant before the present one taken for the one in force, whatever it refuses", async () => {
    await request();
    await prepare();
    await signChild(db, "technician-z", await issuer(), factory.ca);
    await storeDelegationAct(db, "technician-z", act("4".repeat(64)));
    await storeAcceptance(db, "technician-z", act("5".repeat(64)));
    await inTransaction(db, (tx) => requestRenewal(tx, "technician-z", undefined));
    await prepare();
    await signChild(db, "technician-z", await issuer(), factory.ca);
    await storeDelegationAct(db, "technician-z", act("6".repeat(64)));
    await noteRefusedGrant(db, "technician-z", {
      ...{ leafHash: "6".repeat(64), message: randomUUID() },
      refusal: { code: "grant-mismatch", message: "no" },
    });
    const meant = of({ new: toBase64(child.infra.key.spki) });
    const change = { old: await proof(child.ca, meant), new: await proof(child.infra.key, meant) };
    await expect(admit(change)).rejects.toMatchObject({ code: "state-conflict" });
    await expect(admit()).rejects.toMatchObject({ code: "state-conflict" });
  });

  const wrong: [string, string, () => Promise<Partial<Body<"rotation">>>][] = [
    ["a proof by another key", "possession-unproven", async () => ({ old: await proof(factory.ca) })],
    ["one key's proof for both", "possession-unproven", async () => ({ new: await proof(child.ca) })],
    [
      "proofs for another party",
      "possession-unproven",
      async () => ({ old: await proof(child.ca, of({ party: "x" })) }),
    ],
    ["another name", "possession-unproven", async () => ({ new: await proof(next, of(), "Factory-Y CA") })],
    [
      "a grant that isn't in force",
      "state-conflict",
      async () => ({ supersedes: { ...of().supersedes, leafHash: "3".repeat(64) } }),
    ],
    ["no request", "pem-invalid", async () => ({ new: toBase64(Uint8Array.of(1, 2, 3)) })],
  ];
  it.each(wrong)("is refused for %s, and nothing is begun", async (_what, code, change) => {
    await expect(request(await change())).rejects.toMatchObject({ code });
    expect(await getDelegation(db, "technician-z")).toMatchObject({ revision: 1, state: "accepted" });
  });

  it("is refused for a key that has another role", async () => {
    const { infra } = child;
    const meant = of({ new: toBase64(infra.key.spki) });
    const change = { old: await proof(child.ca, meant), new: await proof(infra.key, meant) };
    await expect(request(change)).rejects.toMatchObject({ code: "possession-unproven" });
  });

  it("waits for a sitting where the CA is offline, which renews nothing else meanwhile", async () => {
    await db.query("UPDATE delegation SET signer = 'ceremony'");
    await request();
    await inTransaction(db, (tx) => requestRenewal(tx, "technician-z", undefined, "ceremony"));
    const row = await getDelegation(db, "technician-z");
    expect(row).toMatchObject({ revision: 2, state: "requested" });
    expect(toBase64(parseCsr(row.csr).spki)).toBe(toBase64(next.spki));
  });

  it("is refused when its CA is revoked, before and after it asked", async () => {
    const revoke = () =>
      orderRevocation(db, { id: "technician-z" }, { effect: "final", reason: "cACompromise", by: "operator" });
    await request();
    expect(await revoke()).toMatchObject({ state: "ordered" });
    await expect(prepare()).rejects.toMatchObject({ code: "state-conflict" });
    await db.query("UPDATE delegation SET state = 'refused'");
    await expect(request()).rejects.toMatchObject({ code: "state-conflict" });
  });
});

describe("a child's look at a grant in the place of its own", () => {
  const ref = { origin: "countersign.example/factory-y", leafHash: "1".repeat(64) };
  const fields = { ...OWN, ca: "AAAA" } as Grant;
  const looks = (change: Partial<Grant>) => () =>
    checkRenewal({ ref, fields }, { ...fields, revision: 2, supersedes: ref, ...change } as Grant);
  const lost = { ...ref, leafHash: "2".repeat(64) };

  it("takes the next revision, and a later one for another key alone: that one's request names the grant in force", () => {
    expect(looks({})).not.toThrow();
    expect(looks({ ca: "BBBB" })).not.toThrow();
    expect(looks({ ca: "BBBB", revision: 3, supersedes: lost })).not.toThrow();
    expect(looks({ revision: 3, supersedes: lost })).toThrow("next revision");
    expect(looks({ revision: 2, supersedes: lost, ca: "BBBB" })).toThrow("next revision");
    expect(looks({ revision: 3, supersedes: { ...lost, origin: "other" }, ca: "BBBB" })).toThrow("next revision");
    expect(looks({ ca: "BBBB", revision: 3, supersedes: lost, quota: 101 })).toThrow("more than its time");
  });
});

describe("the quota", () => {
  it("is never exceeded by debits at once, and a rolled-back one is given back", async () => {
    await hold({ quota: 50 });
    const debit = (n: number, fail = false): Promise<unknown> =>
      inTransaction(db, async (tx) => {
        await debitQuota(tx, n);
        if (fail) throw new Error("undone");
      });
    const outcomes = await Promise.allSettled(Array.from({ length: 30 }, (_, i) => debit(3, i % 3 === 0)));
    const done = outcomes.filter(({ status }) => status === "fulfilled").length;
    expect(await used()).toBe(3 * done);
    expect(done).toBe(16);
    await expect(debit(3)).rejects.toMatchObject({
      code: "quota-exceeded",
      details: { quota: 50, used: 48, asked: 3 },
    });
    await debit(2);
    expect(await used()).toBe(50);
  });

  it("isn't said to be exceeded by who comes while a later grant takes its place", async () => {
    await hold({ quota: 50 });
    await inTransaction(db, (tx) => debitQuota(tx, 20));
    const debits: Promise<unknown>[] = [];
    await inTransaction(db, async (tx) => {
      const fields = { ...OWN, quota: 50, revision: 2, certificate: toBase64(ca.der) } as Grant;
      const ref = { origin: "countersign.example/company-x", leafHash: "b".repeat(64) };
      const entry = new Uint8Array(1);
      await storeGrant(tx, { ref, parent: "company-x", entry, fields, certificate: ca.der, upstream: [] });
      debits.push(...[1, 2].map(() => inTransaction(db, (other) => debitQuota(other, 15))));
      // Until both wait for the row.
      const waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
      await expect.poll(async () => (await db.query(waiting)).rowCount).toBe(2);
    });
    await Promise.all(debits);
    expect(await used()).toBe(50);
    await expect(inTransaction(db, (tx) => debitQuota(tx, 1))).rejects.toMatchObject({ code: "quota-exceeded" });
  });

  it("stays used under a later grant", async () => {
    await hold({ quota: 50 });
    await inTransaction(db, (tx) => debitQuota(tx, 20));
    await hold({ quota: 200, revision: 2 }, "b".repeat(64));
    await hold({ quota: 50 });
    expect(await findCurrentGrant(db)).toMatchObject({ used: 20, quota: 200, ref: { leafHash: "b".repeat(64) } });
  });

  it("is nobody's without a grant", async () => {
    await expect(inTransaction(db, (tx) => debitQuota(tx, 1))).rejects.toMatchObject({ code: "grant-missing" });
    await expect(currentGrant(db)).rejects.toMatchObject({ code: "grant-missing" });
  });
});

describe("the root", () => {
  it("is pinned for good", async () => {
    const pin = (sha256: string): Promise<void> => inTransaction(db, (tx) => pinRoot(tx, new Uint8Array(1), sha256));
    await pin("1".repeat(64));
    await pin("1".repeat(64));
    await expect(pin("2".repeat(64))).rejects.toMatchObject({ code: "state-conflict" });
  });
});
