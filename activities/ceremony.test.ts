import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { ApplicationFailure } from "@temporalio/common";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { stringify } from "yaml";
import type { CeremonyActivities } from "../contracts/parties.ts";
import { attemptExtraction, createPinFile, initToken, openToken, type Token, type TokenConfig } from "../hsm/index.ts";
import { nodeVerify } from "../hsm/index.ts";
import { utf8 } from "../lib/domain/bytes.ts";
import { sha256Hex } from "../lib/domain/hash.ts";
import { parseCertificate } from "../lib/pki/certificate.ts";
import { issuerFromCertificate } from "../lib/pki/issuer.ts";
import { pemEncode } from "../lib/pki/pem.ts";
import { profileNamed } from "../lib/pki/profiles.ts";
import { newSerial } from "../lib/pki/serial.ts";
import { keyId } from "../lib/pki/spki.ts";
import { buildTbs } from "../lib/pki/tbs.ts";
import type { CeremonyDocument } from "../lib/records/ceremony.ts";
import { Inbox } from "../services/parties/inbox.ts";
import { currentCrl, findCaCertificate, findIntent, hubIntent, storeIntent } from "../store/authority.ts";
import { getDelegation } from "../store/delegations.ts";
import type { Db } from "../store/db.ts";
import {
  Correspondent,
  invite,
  joinBody,
  makeTestParty,
  siteDatabase,
  type TestParty,
} from "../test/support/parties.ts";
import { throwawayKey } from "../test/support/issuing.ts";
import { softhsmDir, tempDir, tool, type SoftHsm } from "../test/support/index.ts";
import { ceremonyActivities } from "./ceremony.ts";

let hsm: SoftHsm;
let parent: TestParty;
let child: TestParty;
const open: { close?: () => Promise<unknown>; end?: () => Promise<unknown> }[] = [];

beforeAll(async () => {
  hsm = softhsmDir();
  parent = await makeTestParty(hsm, "company-x");
  child = await makeTestParty(hsm, "factory-y");
  open.push(parent, child);
});
afterAll(async () => {
  for (const one of open) await (one.close?.() ?? one.end?.());
});

interface Setting {
  db: Db;
  config: TokenConfig;
  rootToken: Token;
  document: CeremonyDocument;
  yaml: Uint8Array;
  run: CeremonyActivities;
  sha256: { documentSha256: string };
}

const NOW = new Date();

/** A fresh root token and a database that Factory-Y has joined. */
async function setting(
  key: CeremonyDocument["root"]["key"],
  change: (document: CeremonyDocument) => CeremonyDocument = (document) => document,
): Promise<Setting> {
  const db = await siteDatabase();
  open.push(db);
  const invitation = await invite(db, parent, "factory-y");
  const letters = new Correspondent(child, "company-x");
  const { wire } = await letters.write("join", await joinBody(child, invitation));
  await new Inbox({ db, party: "company-x", verify: nodeVerify }).receive(wire);
  const row = await getDelegation(db, "factory-y");

  const label = `root-${key}-${Math.random().toString(36).slice(2, 8)}`;
  const pin = await createPinFile(join(tempDir("root"), "pin"));
  await initToken({ module: hsm.module, label, pin });
  const config = { module: hsm.module, uri: `pkcs11:token=${label}`, pin, sessions: 1 };
  const rootToken = await openToken(config);
  open.unshift(rootToken);

  const document = change({
    schema: "countersign/ceremony/v1",
    party: "company-x",
    root: { commonName: "Company-X Root", organization: "Company-X", key, notAfter: "9999-12-31T23:59:59.000Z" },
    crl: { months: 12 },
    hub: { name: "company-x-root", code: "c0de".repeat(12) },
    delegations: [
      {
        to: "factory-y",
        csrSha256: row.csrSha256,
        grant: {
          idPrefixes: ["dev-"],
          profiles: ["idevid"],
          quota: 1000,
          notBefore: "2020-01-01T00:00:00.000Z",
          notAfter: "2040-01-01T00:00:00.000Z",
          pathLen: 1,
          depth: 1,
          mayBuild: true,
          caProfile: "intermediate-embedded",
        },
      },
    ],
  });
  const yaml = utf8(stringify(document));
  const now = () => NOW;
  const run = ceremonyActivities({ db, rootToken, document: yaml, publicUrl: "http://127.0.0.1:8080", now });
  return { db, config, rootToken, document, yaml, run, sha256: { documentSha256: sha256Hex(yaml) } };
}

async function hold({ run, sha256 }: Setting): Promise<void> {
  const { children } = await run.makeRoot(sha256);
  for (const one of children) await run.signChild({ ...sha256, child: one });
  await run.signRootCrl(sha256);
  await run.signHubVerification(sha256);
}

async function paper({ db }: Setting) {
  return {
    root: (await findCaCertificate(db))!.certificate,
    child: (await getDelegation(db, "factory-y")).certificate!,
    crl: (await currentCrl(db))!.der,
    hub: (await findIntent(db, hubIntent("company-x-root")))!.result!,
  };
}

async function refusal(work: Promise<unknown>): Promise<{ code: string; final: boolean }> {
  try {
    await work;
  } catch (error) {
    if (error instanceof ApplicationFailure) return { code: error.type ?? "", final: error.nonRetryable === true };
    throw error;
  }
  throw new Error("expected a refusal");
}

describe.each(["ec-p256", "ec-p384", "rsa-4096"] as const)("a ceremony with a root of %s", (key) => {
  let held: Setting;
  beforeAll(async () => {
    held = await setting(key);
    await hold(held);
  });

  it("signs root, child, CRL and hub certificate as openssl wants them", async () => {
    const folder = tempDir("ceremony");
    const files = await paper(held);
    const pem = (name: string, label: string, der: Uint8Array): string => {
      writeFileSync(join(folder, name), pemEncode(label, der));
      return join(folder, name);
    };
    const root = pem("root.pem", "CERTIFICATE", files.root);
    const crl = pem("crl.pem", "X509 CRL", files.crl);
    const openssl = (...args: string[]): string => execFileSync(tool("openssl"), args, { encoding: "utf8" });
    const checks = ["-x509_strict", "-crl_check", "-CAfile", root, "-CRLfile", crl];
    expect(openssl("verify", ...checks, pem("child.pem", "CERTIFICATE", files.child))).toMatch(/OK/);
    expect(openssl("verify", "-CAfile", root, pem("hub.pem", "CERTIFICATE", files.hub))).toMatch(/OK/);
    expect(openssl("verify", "-CAfile", root, root)).toMatch(/OK/);

    const text = openssl("x509", "-in", root, "-noout", "-text");
    const algorithm = { "ec-p256": "ecdsa-with-SHA256", "ec-p384": "ecdsa-with-SHA384", "rsa-4096": "sha256WithRSA" };
    expect(text).toContain(algorithm[key]);
    expect(text).toMatch({ "ec-p256": /256 bit/, "ec-p384": /384 bit/, "rsa-4096": /4096 bit/ }[key]);
    expect(openssl("crl", "-in", crl, "-noout", "-text")).toContain("No Revoked Certificates");
    expect(openssl("x509", "-in", join(folder, "child.pem"), "-noout", "-text")).toMatch(
      /CA:TRUE, pathlen:1[^]*http:\/\/127\.0\.0\.1:8080\/crl\/[0-9a-f]{16}\.crl/,
    );
  });

  it("gives the child its own key and name, and the hub its code", async () => {
    const files = await paper(held);
    const certificate = parseCertificate(files.child);
    expect(Buffer.from(certificate.spki)).toEqual(Buffer.from(child.ca.spki));
    expect(certificate.subject.cn).toBe("FACTORY-Y CA");
    expect(certificate.notAfter.toISOString()).toBe("9999-12-31T23:59:59.000Z");
    expect(parseCertificate(files.hub).subject.cn).toBe(held.document.hub!.code);
  });

  it("gives the same paper when it is run again", async () => {
    const before = await paper(held);
    await hold(held);
    expect(await paper(held)).toEqual(before);
  });

  it("leaves a root key that its token doesn't give away", async () => {
    expect(await attemptExtraction(held.config, "root")).toEqual({
      readValue: "CKR_ATTRIBUTE_SENSITIVE",
      wrap: "CKR_KEY_UNEXTRACTABLE",
    });
  });
});

describe("a ceremony", () => {
  it("does nothing for a document that its process wasn't given", async () => {
    const { run, rootToken } = await setting("ec-p256");
    const other = { documentSha256: "0".repeat(64) };
    for (const work of [
      () => run.makeRoot(other),
      () => run.signChild({ ...other, child: "factory-y" }),
      () => run.signRootCrl(other),
      () => run.signHubVerification(other),
    ]) {
      expect(await refusal(work())).toEqual({ code: "unauthorized", final: true });
    }
    expect(await rootToken.hasKey("root")).toBe(false);
  });

  it("makes no key when the document names another request than the one in hand", async () => {
    const { run, sha256, rootToken } = await setting("ec-p256", (document) => ({
      ...document,
      delegations: [{ ...document.delegations[0]!, csrSha256: "0".repeat(64) }],
    }));
    expect(await refusal(run.makeRoot(sha256))).toEqual({ code: "state-conflict", final: true });
    expect(await rootToken.hasKey("root")).toBe(false);
  });

  it("makes no key for a party that hasn't joined", async () => {
    const { run, sha256, rootToken } = await setting("ec-p256", (document) => ({
      ...document,
      delegations: [{ ...document.delegations[0]!, to: "nobody" }],
    }));
    expect(await refusal(run.makeRoot(sha256))).toMatchObject({ code: "not-found" });
    expect(await rootToken.hasKey("root")).toBe(false);
  });

  it("signs what people reviewed, not what the database says", async () => {
    const { run, sha256, db } = await setting("ec-p256");
    await run.makeRoot(sha256);
    await db.query(`UPDATE delegation SET terms = jsonb_set(terms, '{pathLen}', '6')`);
    expect(await refusal(run.signChild({ ...sha256, child: "factory-y" }))).toMatchObject({ code: "unauthorized" });
    await db.query(`UPDATE delegation SET terms = jsonb_set(terms, '{pathLen}', '1')`);
    const stolen = await child.ca.signRequest({ cn: "FACTORY-Y CA", organization: "FACTORY-Y" });
    await db.query("UPDATE delegation SET csr = $1", [stolen]);
    expect(await refusal(run.signChild({ ...sha256, child: "factory-y" }))).toMatchObject({ code: "unauthorized" });
    expect((await getDelegation(db, "factory-y")).certificate).toBeNull();
  });

  it("signs no bytes that were put in an intent's place", async () => {
    const { run, sha256, db } = await setting("ec-p256");
    await run.makeRoot(sha256);
    const rootTbs = (await db.query<{ tbs: Uint8Array }>("SELECT tbs FROM ca_intent WHERE kind = 'root'")).rows[0]!.tbs;
    const { rows } = await db.query<{ id: string; issuer_key_id: string }>("SELECT id, issuer_key_id FROM ca_intent");
    await db.query(
      `INSERT INTO ca_intent (id, kind, profile, issuer_key_id, request, tbs)
       VALUES ('delegation/factory-y', 'intermediate', 'intermediate-embedded', $1, '{}', $2)`,
      [rows[0]!.issuer_key_id, rootTbs],
    );
    expect(await refusal(run.signChild({ ...sha256, child: "factory-y" }))).toMatchObject({ code: "unauthorized" });
  });

  it("signs no other thing that somebody stored in the place of a CRL or a hub's certificate", async () => {
    const { run, sha256, db, document, rootToken } = await setting("ec-p256");
    await run.makeRoot(sha256);
    const root = parseCertificate((await findCaCertificate(db))!.certificate);
    const mallory = throwawayKey();
    const rootKeyId = keyId(root.spki);
    const hub = hubIntent(document.hub!.name);
    const crl = `crl/${rootKeyId}/${Math.floor(NOW.getTime() / 1000)}`;
    for (const id of [hub, crl]) {
      await storeIntent(db, {
        id,
        kind: "intermediate",
        profile: "intermediate-embedded",
        issuerKeyId: rootKeyId,
        subjectKeyId: null,
        request: {},
        tbs: buildTbs(profileNamed("intermediate-embedded"), {
          issuer: issuerFromCertificate(root),
          serial: newSerial(randomBytes),
          notBefore: root.notBefore,
          notAfter: root.notAfter,
          subject: { commonName: document.hub!.code },
          spki: mallory.spki,
          pathLen: 1,
        }),
      });
    }
    expect(await refusal(run.signHubVerification(sha256))).toMatchObject({ code: "unauthorized" });
    expect(await refusal(run.signRootCrl(sha256))).toMatchObject({ code: "unauthorized" });
    for (const id of [hub, crl]) expect((await findIntent(db, id))!.result).toBeNull();
    expect(await rootToken.hasKey("root")).toBe(true);
  });

  it("never signs for a child that the document doesn't name", async () => {
    const { run, sha256 } = await setting("ec-p256", (document) => ({ ...document, delegations: [] }));
    await run.makeRoot(sha256);
    expect(await refusal(run.signChild({ ...sha256, child: "factory-y" }))).toMatchObject({ code: "unauthorized" });
  });
});
