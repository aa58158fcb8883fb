import { createHash, randomBytes } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { csrManifest, stationKey, type StationKey } from "../../apps/cli/station-key.ts";
import { createPinFile, initToken, nodeVerify, openToken, type CaKey, type Token } from "../../hsm/index.ts";
import { toBase64 } from "../../lib/domain/bytes.ts";
import type { Signer } from "../../lib/domain/signing.ts";
import { erasedPartition } from "../../lib/firmware/index.ts";
import type { Certificate } from "../../lib/pki/certificate.ts";
import { keyId } from "../../lib/pki/spki.ts";
import { profileDigest } from "../../lib/pki/profiles.ts";
import type { CertificateSettings } from "../../lib/records/certificate-settings.ts";
import type { Grant } from "../../lib/records/grant.ts";
import type { CustodyContext } from "../../services/custody/context.ts";
import { openOwnLot } from "../../services/custody/lots.ts";
import { submitCsrs, type IntakeContext } from "../../services/intake/submit.ts";
import { recordBuilt } from "../../services/issuing/built.ts";
import { issueBatch } from "../../services/issuing/certify.ts";
import type { IssuingContext } from "../../services/issuing/context.ts";
import { actKey, Acts, createLedger, Sequencer, type SequencerOptions } from "../../services/ledger/index.ts";
import { connect, inTransaction, migrate, type Db } from "../../store/db.ts";
import { storeGrant } from "../../store/grants.ts";
import { issue, makeCsr, pem, throwawayKey, throwawayRoot, type ThrowawayCa, type ThrowawayKey } from "./issuing.ts";
import type { RaceSite } from "./race-process.ts";
import { softhsmDir, tempDir, testDatabase } from "./index.ts";

/** For tests: a site's database, ledger, token, grant and infrastructure CA, as lots need them; no gateway, no Temporal. */

export interface LotSite {
  readonly party: string;
  readonly origin: string;
  readonly db: Db;
  readonly acts: Acts;
  readonly act: Signer;
  readonly log: Signer;
  readonly caKey: CaKey;
  readonly token: Token;
  readonly ca: Certificate;
  readonly root: ThrowawayCa;
  readonly infrastructure: ThrowawayCa;
  readonly issuing: IssuingContext;
  readonly custody: CustodyContext;
  readonly intake: IntakeContext;
  readonly grant: Grant;
  client(role: string, at?: Date): StationKey & { pem: string; keyPem: string };
  /** for another process of this site */
  readonly race: RaceSite;
  /** The same token, logged in once more, as whoever has its PIN could. */
  anotherSession(): Promise<Token>;
  close(): Promise<void>;
}

export interface LotSiteOptions {
  readonly party?: string;
  readonly root?: ThrowawayCa;
  readonly grant?: Partial<Grant>;
  /** of its CA; nested in the root's */
  readonly days?: number | "no-expiry";
  /** an open SoftHSM of this process; made when left out */
  readonly module?: string;
  /** an empty database; one on the run's shared server when left out */
  readonly databaseUrl?: string;
  /** for its ledger */
  readonly sequencer?: (db: Db) => Partial<SequencerOptions>;
}

export async function lotSite(options: LotSiteOptions = {}): Promise<LotSite> {
  const party = options.party ?? "technician-z";
  const origin = `countersign.example/${party}`;
  const module = options.module ?? softhsmDir().module;
  const dir = tempDir(party);
  const token = await makeToken(module, party, dir);
  const [act, log, caKey] = await Promise.all([
    token.generateKey({ label: "act", algorithm: "ec-p256" }),
    token.generateKey({ label: "log", algorithm: "ed25519" }),
    token.generateCaKey({ label: "ca", algorithm: "ec-p256" }),
  ]);
  const databaseUrl = options.databaseUrl ?? (await testDatabase()).url;
  const db = connect(databaseUrl, { max: 20 });
  await migrate(db);
  await createLedger({ db, origin, signer: log });
  const sequencer = new Sequencer({
    db,
    origin,
    signer: log,
    verify: nodeVerify,
    actKeys: () => [actKey(act.spki, act.algorithm)],
    onError: (error) => console.error(error),
    ...options.sequencer?.(db),
  });
  sequencer.start();
  const acts = new Acts({ db, origin, party });

  const root = options.root ?? throwawayRoot({ commonName: "Test Root" });
  const ca = issue(root, "intermediate-embedded", { commonName: `${party} CA` }, caKey.spki, {
    pathLen: 0,
    ...(options.days === undefined ? {} : { days: options.days }),
  });
  const grant = grantFields(party, root, ca, options.grant);
  const ref = { origin: "countersign.example/company-x", leafHash: randomBytes(32).toString("hex") };
  await inTransaction(db, (tx) =>
    storeGrant(tx, {
      ref,
      parent: "company-x",
      entry: new Uint8Array(1),
      fields: grant,
      certificate: ca.der,
      upstream: [root.certificate.der],
    }),
  );

  const infrastructure = throwawayInfrastructure(party);
  const firmwareDir = join(dir, "firmware");
  mkdirSync(firmwareDir);
  writeFileSync(join(firmwareDir, "esp-secure-cert.bin"), erasedPartition());
  const issuing: IssuingContext = {
    db,
    acts,
    party,
    caKey: async () => caKey,
    crlUrl: (id) => `http://127.0.0.1:1/crl/${id}.crl`,
    inclusionTimeoutMs: 20_000,
  };
  const custody: CustodyContext = { db, acts, party, actSigner: act, firmwareDir, imagesDir: join(dir, "images") };
  return {
    party,
    origin,
    db,
    acts,
    act,
    log,
    caKey,
    token,
    ca,
    root,
    infrastructure,
    issuing,
    custody,
    intake: { db, party, infrastructure: infrastructure.certificate.der },
    grant,
    race: {
      ...{ party, origin, databaseUrl },
      token: { module, uri: `pkcs11:token=${party}`, pin: { file: join(dir, "pin") } },
    },
    anotherSession: () => openToken({ module, uri: `pkcs11:token=${party}`, pin: { file: join(dir, "pin") } }),
    client: (role, at) => infrastructureClient(infrastructure, party, role, at),
    close: async () => {
      acts.close();
      await sequencer.stop();
      await db.end();
      await token.close();
    },
  };
}

async function makeToken(module: string, label: string, dir: string): Promise<Token> {
  const pin = await createPinFile(join(dir, "pin"));
  await initToken({ module, label, pin });
  return await openToken({ module, uri: `pkcs11:token=${label}`, pin });
}

function throwawayInfrastructure(party: string): ThrowawayCa {
  // Any CA will do: what counts here is that station certificates come from it and from no other.
  return throwawayRoot({ commonName: `${party} infrastructure` });
}

/** A client certificate by an infrastructure CA; its role is the OU. */
export function infrastructureClient(
  ca: ThrowawayCa,
  party: string,
  role: string,
  at?: Date,
): StationKey & { pem: string; keyPem: string } {
  const key = throwawayKey();
  const subject = { organization: party, organizationalUnit: role, commonName: `${role}-1` };
  const certificate = issue(ca, "client", subject, key.spki, at === undefined ? {} : { at });
  const keyPem = String(key.privateKey.export({ type: "pkcs8", format: "pem" }));
  const certPem = pem(certificate);
  return { ...stationKey(keyPem, certPem), pem: certPem, keyPem };
}

function grantFields(party: string, root: ThrowawayCa, ca: Certificate, changes: Partial<Grant> = {}): Grant {
  const spki = toBase64(ca.spki);
  const some = createHash("sha256").update(party).digest("hex");
  return {
    id: `grant-${party}`,
    revision: 1,
    issuer: toBase64(root.key.spki),
    child: party,
    // Lots read the grant's terms only; its keys were checked when it was accepted.
    keyset: {
      party,
      ca: spki,
      act: spki,
      infrastructure: spki,
      log: { origin: `countersign.example/${party}`, vkey: "x+00000000+AQ==" },
      witness: { vkey: "x+00000000+BA==" },
      proofs: {
        ca: { kind: "csr", sha256: some },
        infrastructure: { certificateSha256: some },
        log: { checkpoint: "" },
        witness: { signature: "" },
      },
    },
    certificate: toBase64(ca.der),
    csrSha256: some,
    nonceSha256: some,
    idPrefixes: ["dev-"],
    profiles: ["idevid", "ldevid"].map((name) => ({ name, sha256: profileDigest(name) })),
    quota: 100_000,
    notBefore: "2026-01-01T00:00:00.000Z",
    notAfter: "2099-01-01T00:00:00.000Z",
    pathLen: 0,
    depth: 0,
    mayBuild: true,
    approvals: { threshold: 0 },
    ...changes,
  };
}

/** A lot that the site builds and issues itself. */
export async function ownLot(
  site: LotSite,
  id: string,
  slots: number,
  issuer = site.party,
  certificate: CertificateSettings = {},
): Promise<void> {
  const layouts = [{ format: "esp-secure-cert" as const, template: "esp-secure-cert.bin" }];
  await openOwnLot(site.custody, { id, slots, issuer, profile: "ldevid", layouts, certificate });
}

export interface TestDevice {
  readonly id: string;
  readonly key: ThrowawayKey;
  readonly csr: Uint8Array;
}

export function testDevice(id: string, key = throwawayKey()): TestDevice {
  return { id, key, csr: makeCsr(key, { cn: id }) };
}

let serial = 0;
/** Device ids that no other test of this process has. */
export function testDevices(count: number, prefix = "dev-"): TestDevice[] {
  return Array.from({ length: count }, () => testDevice(`${prefix}${process.pid}-${++serial}`));
}

export const spkiId = (device: TestDevice): string => keyId(device.key.spki);

/** Has an own lot's devices built, by one batch of the station's. */
export async function buildDevices(site: LotSite, lot: string, devices: readonly TestDevice[]): Promise<void> {
  await recordBuilt(site.issuing, await handIn(site, lot, "built", devices));
}

/** Has an own lot's devices built and certified, each by one batch of the station's. */
export async function certifyDevices(site: LotSite, lot: string, devices: readonly TestDevice[]): Promise<void> {
  await buildDevices(site, lot, devices);
  await issueBatch(site.issuing, await handIn(site, lot, "certify", devices));
}

async function handIn(
  { client, intake }: LotSite,
  lot: string,
  kind: "built" | "certify",
  devices: readonly TestDevice[],
): Promise<string> {
  const csrs = devices.map(({ csr }) => csr);
  return (await submitCsrs(intake, lot, await csrManifest(client("station"), kind, lot, csrs), csrs)).id;
}
