import { randomBytes, randomUUID } from "node:crypto";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { ensureClient, ensureInfrastructureCa, ensureServer } from "../../apps/site/infrastructure.ts";
import { createPinFile, initToken, openToken, type CaKey, type Token } from "../../hsm/index.ts";
import { fromBase64, toBase64, toHex } from "../../lib/domain/bytes.ts";
import { canonicalJson } from "../../lib/domain/json.ts";
import type { Certificate } from "../../lib/pki/certificate.ts";
import { leafHash } from "../../lib/ledger/tree.ts";
import { keyId } from "../../lib/pki/spki.ts";
import type { ActFields, ActType } from "../../lib/records/acts.ts";
import { PAYLOAD_TYPES, signDsse } from "../../lib/records/dsse.ts";
import type { Body, Invitation, Message, MessageType } from "../../lib/records/message.ts";
import { buildStatement, type Act } from "../../lib/records/statement.ts";
import { sha256Hex } from "../../services/ledger/sha256.ts";
import { encodeWire, signEnvelope } from "../../services/parties/envelope.ts";
import { actKeyId, contactOf, type Identity } from "../../services/parties/identity.ts";
import { nonceDigest } from "../../services/parties/join.ts";
import { makeKeyset } from "../../services/parties/keyset.ts";
import { connect, migrate, type Db } from "../../store/db.ts";
import { storeInvitation } from "../../store/parties.ts";
import { tempDir, testDatabase, type SoftHsm } from "./index.ts";

/** A party for tests: a token of its own with keys by role, infrastructure certificates, and what it says of itself. */
export interface TestParty {
  readonly identity: Identity;
  readonly token: Token;
  readonly ca: CaKey;
  readonly infra: { readonly key: CaKey; readonly certificate: Certificate };
  readonly folder: string;
  /** PEM files of its gateway and of `operator`, `station`, in `folder` */
  readonly server: { keyFile: string; certFile: string };
  close(): Promise<void>;
}

export async function makeTestParty(
  hsm: SoftHsm,
  party: string,
  urls: { gateway: string; public: string } = { gateway: "https://127.0.0.1:9", public: "http://127.0.0.1:9" },
): Promise<TestParty> {
  const folder = tempDir(party);
  mkdirSync(join(folder, "infra"));
  const pin = await createPinFile(join(folder, "pin"));
  const label = `${party}-${randomBytes(4).toString("hex")}`;
  await initToken({ module: hsm.module, label, pin });
  const token = await openToken({ module: hsm.module, uri: `pkcs11:token=${label}`, pin, sessions: 2 });
  const act = await token.generateKey({ label: "act", algorithm: "ec-p256" });
  const log = await token.generateKey({ label: "log", algorithm: "ed25519" });
  const witness = await token.generateKey({ label: "witness", algorithm: "ed25519" });
  const imageSigning = await token.generateImageKey({ label: "image", algorithm: "ec-p256" });
  const key = await token.generateCaKey({ label: "infra", algorithm: "ec-p256" });
  const ca = await token.generateCaKey({ label: "ca", algorithm: "ec-p256" });
  const organization = party.toUpperCase();
  const certificate = await ensureInfrastructureCa(key, join(folder, "infra", "ca.pem"), {
    organization,
    commonName: `${party} infrastructure`,
  });
  const infra = { key, certificate };
  const server = { keyFile: join(folder, "infra", "gateway.key"), certFile: join(folder, "infra", "gateway.pem") };
  await ensureServer(infra, server, { organization, commonName: party }, ["127.0.0.1"]);
  for (const role of ["operator", "station"] as const) {
    const files = { keyFile: join(folder, "infra", `${role}.key`), certFile: join(folder, "infra", `${role}.pem`) };
    await ensureClient(infra, files, { organization, commonName: `${role}@${party}`, organizationalUnit: role });
  }
  const identity: Identity = {
    party,
    organization,
    origin: `countersign.example/${party}`,
    gatewayUrl: urls.gateway,
    publicUrl: urls.public,
    act,
    log,
    witness,
    imageSigning,
    infrastructure: { certificate: certificate.der, spki: certificate.spki },
  };
  return { identity, token, ca, infra, folder, server, close: () => token.close() };
}

/** A migrated database of this suite's own. */
export async function siteDatabase(): Promise<Db> {
  const db = connect((await testDatabase()).url, { max: 12 });
  await migrate(db);
  return db;
}

/** An invitation of `from`, known to its database. */
export async function invite(db: Db, from: TestParty, to: string, expires = Date.now() + 60_000): Promise<Invitation> {
  const invitation: Invitation = {
    schema: 1,
    id: randomUUID(),
    to,
    from: contactOf(from.identity),
    nonce: randomBytes(32).toString("base64url"),
    expires: new Date(expires).toISOString(),
  };
  const nonceSha256 = nonceDigest(invitation.nonce);
  await storeInvitation(db, { id: invitation.id, party: to, nonceSha256, expires: new Date(expires) });
  return invitation;
}

/** A signed act, as the ledger would hold it. */
export async function signedAct<T extends ActType>(
  from: Pick<TestParty, "identity">,
  act: Pick<Act<T>, "type" | "subject" | "prev"> & { fields: ActFields<T>; grant?: Act["grant"]; blobs?: Act["blobs"] },
): Promise<{ entry: Uint8Array; leafHash: string }> {
  const { identity } = from;
  const statement = buildStatement({
    type: act.type,
    subject: act.subject,
    origin: identity.origin,
    party: identity.party,
    retryKey: toHex(randomBytes(32)),
    time: new Date().toISOString(),
    ...(act.grant === undefined ? {} : { grant: act.grant }),
    prev: act.prev,
    blobs: act.blobs ?? [],
    fields: act.fields,
  } as Act<T>);
  const entry = await signDsse(PAYLOAD_TYPES.statement, statement, identity.act, actKeyId(identity));
  return { entry, leafHash: toHex(leafHash(entry)) };
}

/** The body of an honest `join`. */
export async function joinBody(child: TestParty, invitation: Invitation): Promise<Body<"join">> {
  const { identity } = child;
  const csr = await child.ca.signRequest({
    cn: `${identity.organization} CA`,
    organization: identity.organization,
    challengePassword: invitation.nonce,
  });
  const keyset = await makeKeyset(identity, { spki: child.ca.spki, kind: "csr", der: csr });
  const act = await signedAct(child, {
    type: "keyset",
    subject: [{ name: identity.party, digest: { sha256: keyId(fromBase64(keyset.ca)) } }],
    prev: [],
    fields: { keyset },
  });
  return {
    invitation: invitation.id,
    nonce: invitation.nonce,
    contact: contactOf(identity),
    csr: toBase64(csr),
    keyset: toBase64(act.entry),
    infrastructure: toBase64(identity.infrastructure.certificate),
  };
}

export interface Sent {
  readonly wire: Uint8Array;
  readonly message: Message;
  readonly sha256: string;
}

/** Writes envelopes of one party to another, in order; `change` spoils the next one before it is signed. */
export class Correspondent {
  readonly #from: TestParty;
  readonly #to: string;
  #sequence = 0;
  #previous: string | null = null;

  constructor(from: TestParty, to: string) {
    this.#from = from;
    this.#to = to;
  }

  /** Takes the next number. */
  async write<T extends MessageType>(type: T, body: Body<T>, change: Partial<Message> = {}): Promise<Sent> {
    const sent = await this.draft(type, body, change);
    this.#sequence = sent.message.sequence;
    this.#previous = sent.sha256;
    return sent;
  }

  /** Signs one without taking its number. */
  async draft<T extends MessageType>(
    type: T,
    body: Body<T>,
    change: Partial<Message> = {},
    signer = this.#from.identity.act,
  ): Promise<Sent> {
    const bytes = canonicalJson(body);
    const message: Message = {
      schema: 1,
      id: randomUUID(),
      type,
      sender: this.#from.identity.party,
      keyId: actKeyId(this.#from.identity),
      receiver: this.#to,
      epoch: 1,
      sequence: this.#sequence + 1,
      previous: this.#previous,
      created: new Date().toISOString(),
      expires: new Date(Date.now() + 60_000).toISOString(),
      body: { sha256: sha256Hex(bytes), size: bytes.length },
      ...change,
    };
    const envelope = await signEnvelope(message, signer);
    return { wire: encodeWire(envelope.bytes, bytes), message, sha256: envelope.sha256 };
  }
}
