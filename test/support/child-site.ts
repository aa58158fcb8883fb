import { randomBytes } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { Agent, request } from "node:https";
import { join } from "node:path";
import { createLogger } from "../../apps/http/logger.ts";
import { createServer, type HttpsServer } from "../../apps/http/server.ts";
import { loadSiteConfig, type SiteConfig } from "../../apps/site/config.ts";
import { initSite } from "../../apps/site/init.ts";
import { Site } from "../../apps/site/site.ts";
import { freePort } from "../../apps/site/stack/ports.ts";
import { fromBase64, toBase64 } from "../../lib/domain/bytes.ts";
import { parseCertificate, type Certificate } from "../../lib/pki/certificate.ts";
import { parseCsr } from "../../lib/pki/csr.ts";
import { issuerFromCertificate, selfIssuer } from "../../lib/pki/issuer.ts";
import { lintTbs } from "../../lib/pki/lint.ts";
import { PROFILES } from "../../lib/pki/profiles.ts";
import { newSerial } from "../../lib/pki/serial.ts";
import { buildTbs } from "../../lib/pki/tbs.ts";
import { NO_EXPIRY, wholeSeconds } from "../../lib/pki/time.ts";
import type { Grant } from "../../lib/records/grant.ts";
import type { Body, Invitation, MessageType } from "../../lib/records/message.ts";
import { parseEntry } from "../../lib/records/statement.ts";
import { sha256Hex } from "../../services/ledger/sha256.ts";
import { ENVELOPE_MEDIA_TYPE, readWire } from "../../services/parties/envelope.ts";
import { contactOf } from "../../services/parties/identity.ts";
import { nonceDigest } from "../../services/parties/join.ts";
import { profileRefs } from "../../services/parties/terms.ts";
import { findPkcs11Module, softhsmDir, tempDir, testDatabase, testTemporal } from "./index.ts";
import { Correspondent, makeTestParty, type TestParty } from "./parties.ts";

/** Factory-Y as a real site below a Company-X that is the test's own: its configuration, and what its parent says to it. */

/**
 * @param label of its tokens, `<label>` and `<label>-ca`
 * @param secrets files beside the configuration, by name, under `secrets/`
 * @param more settings beyond those that every site has
 */
export async function childSiteConfig(
  label: string,
  secrets: Readonly<Record<string, string>> = {},
  more: object = {},
): Promise<SiteConfig> {
  const folder = tempDir("factory-y");
  mkdirSync(join(folder, "secrets"));
  const url = new URL((await testDatabase()).url);
  const files = { "db.password": decodeURIComponent(url.password), ...secrets };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, "secrets", name), text, { mode: 0o600 });
  url.password = "";
  const [port, publicPort] = [await freePort(), await freePort()];
  const token = (name: string) => ({ uri: `pkcs11:token=${name}`, pinFile: `secrets/${name}.pin` });
  const settings = {
    schema: "countersign/site/v1",
    party: "factory-y",
    name: "Factory-Y",
    role: "factory",
    origin: "countersign.example/factory-y",
    organization: "Factory-Y",
    database: { url: url.href, passwordFile: "secrets/db.password" },
    temporal: await testTemporal(),
    hsm: { module: findPkcs11Module(), tokens: { site: token(label), ca: token(`${label}-ca`) } },
    gateway: {
      port,
      publicPort,
      url: `https://127.0.0.1:${port}`,
      publicUrl: `http://127.0.0.1:${publicPort}`,
      tls: { keyFile: "infra/gateway.key", certFile: "infra/gateway.pem", clientCaFile: "infra/ca.pem" },
    },
    imagesDir: "images",
    firmwareDir: "firmware",
    ...more,
  };
  const file = join(folder, "site.json");
  writeFileSync(file, JSON.stringify(settings));
  // Twice: the second time finds everything there.
  await initSite(file);
  await initSite(file);
  return loadSiteConfig(file);
}

/** The parent's gateway as far as a child needs it: takes every envelope, and shows `take` what is in it. */
async function parentInbox(
  parent: TestParty,
  port: number,
  take: (type: MessageType, body: Uint8Array) => void,
): Promise<HttpsServer> {
  const inbox = createServer({
    tls: { key: readFileSync(parent.server.keyFile, "utf8"), cert: readFileSync(parent.server.certFile, "utf8") },
    logger: createLogger({ name: "parent", level: "silent" }),
  });
  inbox.addContentTypeParser(ENVELOPE_MEDIA_TYPE, { parseAs: "buffer" }, (_request, body, done) => done(null, body));
  inbox.post("/inbox", async ({ body }) => {
    const { message, body: inner } = readWire(body as Uint8Array);
    take(message.type, inner);
    return { id: message.id, sequence: message.sequence, state: "stored" };
  });
  await inbox.listen({ host: "127.0.0.1", port });
  return inbox;
}

/** Company-X as the test plays it: its keys, its root, its door, its letters to the child. */
export interface PaperParent {
  readonly parent: TestParty;
  readonly root: Certificate;
  readonly letters: Correspondent;
  readonly inbox: HttpsServer;
}

/** @param take sees every envelope that the child sends; what it throws is the parent's answer */
export async function paperParent(take: (type: MessageType, body: Uint8Array) => void): Promise<PaperParent> {
  const port = await freePort();
  const urls = { gateway: `https://127.0.0.1:${port}`, public: "http://127.0.0.1:9" };
  const parent = await makeTestParty(softhsmDir(), "company-x", urls);
  return {
    parent,
    root: await selfSignedRoot(parent),
    letters: new Correspondent(parent, "factory-y"),
    inbox: await parentInbox(parent, port, take),
  };
}

/** The child, running; nothing of it may end by itself. */
export function startChildSite(config: SiteConfig): Promise<Site> {
  return Site.start(config, createLogger({ name: config.party, level: "silent" }), (error) => {
    throw error;
  });
}

export function invitationFrom(parent: TestParty, id: string): Invitation {
  return {
    schema: 1,
    id,
    to: "factory-y",
    from: contactOf(parent.identity),
    nonce: randomBytes(32).toString("base64url"),
    expires: new Date(Date.now() + 600_000).toISOString(),
  };
}

export async function selfSignedRoot(
  parent: TestParty,
  commonName = "Company-X Root",
  key = parent.ca,
): Promise<Certificate> {
  const subject = { organization: "Company-X", commonName };
  const validity = { notBefore: wholeSeconds(new Date(Date.now() - 60_000)), notAfter: NO_EXPIRY };
  const issuer = selfIssuer({ name: subject, spki: key.spki, ...validity });
  const tbs = buildTbs(PROFILES.root, { issuer, serial: newSerial(randomBytes), ...validity, subject, spki: key.spki });
  return parseCertificate(await key.signCertificate(lintTbs(tbs, PROFILES.root, issuer)));
}

/** The child's CA certificate, each time another one: DER. */
export function signChildCa(
  parent: TestParty,
  root: Certificate,
  asked: Body<"join">,
  change: { spki?: Uint8Array; commonName?: string; pathLen?: number; notBefore?: Date } = {},
): Promise<Uint8Array> {
  const profile = PROFILES["intermediate-embedded"];
  const issuer = issuerFromCertificate(root);
  const tbs = buildTbs(profile, {
    issuer,
    serial: newSerial(randomBytes),
    notBefore: wholeSeconds(change.notBefore ?? new Date()),
    notAfter: NO_EXPIRY,
    subject: { organization: "Factory-Y", commonName: change.commonName ?? "Factory-Y CA" },
    spki: change.spki ?? parseCsr(fromBase64(asked.csr)).spki,
    pathLen: change.pathLen ?? 1,
  });
  return parent.ca.signCertificate(lintTbs(tbs, profile, issuer));
}

/** What an honest parent grants, but for what `terms` says otherwise; the certificate is the caller's. */
export function grantTo(
  asked: Body<"join">,
  invitation: Invitation,
  root: Certificate,
  terms: Partial<Grant> & { certificate: string },
): Grant {
  const { act } = parseEntry(fromBase64(asked.keyset));
  if (act.type !== "keyset") throw new Error("no keyset");
  return {
    id: "factory-y-1",
    revision: 1,
    issuer: toBase64(root.spki),
    child: "factory-y",
    keyset: act.fields.keyset,
    csrSha256: sha256Hex(fromBase64(asked.csr)),
    nonceSha256: nonceDigest(invitation.nonce),
    idPrefixes: ["dev-"],
    profiles: profileRefs(["idevid"]),
    quota: 10,
    notBefore: "2020-01-01T00:00:00.000Z",
    notAfter: "2040-01-01T00:00:00.000Z",
    pathLen: 1,
    depth: 1,
    mayBuild: true,
    approvals: { threshold: 0 },
    ...terms,
  };
}

export interface SiteAnswer {
  readonly status: number;
  // oxlint-disable-next-line typescript/no-explicit-any -- tests look at answers field by field, that is their check
  readonly body: any;
}

/** A request to the site's gateway; `role`: with that client certificate. */
export function callSite(
  config: SiteConfig,
  method: string,
  path: string,
  options: { role?: string; body?: Uint8Array | string; type?: string } = {},
): Promise<SiteAnswer> {
  const infra = join(config.gateway.tls.clientCaFile, "..");
  const file = (name: string): string => readFileSync(join(infra, name), "utf8");
  const { role, body } = options;
  const agent = new Agent({
    ca: file("ca.pem"),
    ...(role === undefined ? {} : { cert: file(`${role}.pem`), key: file(`${role}.key`) }),
  });
  return new Promise((done, fail) => {
    const headers = body === undefined ? {} : { "content-type": options.type ?? "application/json" };
    const sent = request(new URL(path, config.gateway.url), { method, agent, headers }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (part: string) => (text += part));
      response.on("end", () => {
        agent.destroy();
        done({ status: response.statusCode ?? 0, body: /^[{[]/.test(text) ? JSON.parse(text) : { text } });
      });
    });
    sent.on("error", fail).end(body);
  });
}
