import { createHash, randomBytes } from "node:crypto";
import { fromHex, toBase64, toHex, utf8 } from "../../lib/domain/bytes.ts";
import type { Certificate } from "../../lib/pki/certificate.ts";
import { profileDigest } from "../../lib/pki/profiles.ts";
import { formatPolicy, formatVkey, KEY_TYPE, noteKey, ed25519Raw } from "../../lib/ledger/index.ts";
import { inclusionProofs, leafHash } from "../../lib/ledger/tree.ts";
import type { ActFields, ActType } from "../../lib/records/acts.ts";
import { PAYLOAD_TYPES, signDsse } from "../../lib/records/dsse.ts";
import { keysetProofMessage, type Keyset } from "../../lib/records/keyset.ts";
import {
  commitment,
  csrItem,
  handoffItem,
  installItem,
  MANIFEST_SIGNERS,
  type Manifest,
} from "../../lib/records/manifest.ts";
import type { Policy } from "../../lib/records/policy.ts";
import type { ActRef, BlobRef, PrevRef } from "../../lib/records/primitives.ts";
import { buildStatement, type Act, type Subject } from "../../lib/records/statement.ts";
import { canonicalJson } from "../../lib/domain/json.ts";
import { retryKeyOf } from "../../services/ledger/acts.ts";
import { issue, issueCa, issueCrl, pem, throwawayRoot, type ThrowawayCa } from "./issuing.ts";
import { MemoryLog, opensslVerify, testKey, type TestKey } from "./memory-log.ts";
import { LedgerIndex, type PassportSource } from "../../lib/ledger/passport-build.ts";
import { LogReader } from "../../lib/ledger/reader.ts";

/**
 * A whole history in memory, with throwaway keys: Company-X's ceremony, grants down to Technician-Z, one lot whose devices
 * Factory-Y builds and hands off, and Technician-Z certifies, injects and installs. Every record is as the sites write it.
 */

export const sha = (bytes: Uint8Array | string): string => createHash("sha256").update(bytes).digest("hex");

/** Before anything that happens in a world, whose clock runs slower than the real one. */
const hourAgo = (): Date => new Date(Date.now() - 3_500_000);

export class TestParty {
  readonly id: string;
  readonly origin: string;
  readonly ca: ThrowawayCa;
  readonly act: TestKey = testKey("p256");
  readonly witness: TestKey = testKey("ed25519");
  readonly infrastructure: ThrowawayCa;
  readonly log: MemoryLog;
  readonly keyset: Keyset;
  readonly blobs = new Map<string, Uint8Array>();
  /** acts that are recorded and not yet published */
  readonly pending: Uint8Array[] = [];
  readonly #clock: () => string;

  private constructor(id: string, ca: ThrowawayCa, log: MemoryLog, checkpoint: Uint8Array, clock: () => string) {
    this.id = id;
    this.origin = log.key.name;
    this.ca = ca;
    this.log = log;
    this.#clock = clock;
    this.infrastructure = throwawayRoot({ commonName: `${id} infrastructure` }, undefined, { at: hourAgo() });
    const witness = noteKey(`${id}.example/witness`, KEY_TYPE.cosignature, ed25519Raw(this.witness.spki));
    const keys = {
      party: id,
      ca: toBase64(ca.key.spki),
      act: toBase64(this.act.spki),
      infrastructure: toBase64(this.infrastructure.key.spki),
      log: { origin: this.origin, vkey: formatVkey(log.key) },
      witness: { vkey: formatVkey(witness) },
    };
    this.keyset = {
      ...keys,
      proofs: {
        ca: ca.certificate.selfIssued
          ? { kind: "self-signed", sha256: sha(ca.certificate.der) }
          : { kind: "csr", sha256: sha(`request of ${id}`) },
        infrastructure: { certificateSha256: sha(this.infrastructure.certificate.der) },
        log: { checkpoint: new TextDecoder().decode(checkpoint) },
        witness: { signature: "" },
      },
    };
  }

  static async create(id: string, ca: ThrowawayCa, clock: () => string): Promise<TestParty> {
    const log = new MemoryLog(`${id}.example/log`);
    const party = new TestParty(id, ca, log, await log.append([]), clock);
    const signature = toBase64(await party.witness.sign(keysetProofMessage(party.keyset)));
    party.keyset.proofs.witness.signature = signature;
    return party;
  }

  blob(name: string, bytes: Uint8Array): BlobRef {
    this.blobs.set(sha(bytes), bytes);
    return { name, sha256: sha(bytes), size: bytes.length };
  }

  infrastructureBlob(): BlobRef {
    return this.blob("infrastructure", this.infrastructure.certificate.der);
  }

  statement<T extends ActType>(
    type: T,
    subject: Subject,
    fields: ActFields<T>,
    more: { prev?: PrevRef[]; grant?: ActRef; blobs?: BlobRef[]; time?: string } = {},
  ): Uint8Array {
    return buildStatement({
      type,
      subject: [subject],
      origin: this.origin,
      party: this.id,
      retryKey: retryKeyOf(this.origin, type, `${subject.name}/${randomBytes(4).toString("hex")}`),
      time: this.#clock(),
      prev: [],
      blobs: [],
      ...more,
      fields,
    } as unknown as Act);
  }

  line<T extends ActType>(...args: Parameters<typeof this.statement<T>>): ActRef {
    return this.put(this.statement(...args));
  }

  async signed<T extends ActType>(...args: Parameters<typeof this.statement<T>>): Promise<ActRef> {
    return this.put(await signDsse(PAYLOAD_TYPES.statement, this.statement(...args), this.act, this.act.keyId));
  }

  put(entry: Uint8Array): ActRef {
    this.pending.push(entry);
    return { origin: this.origin, leafHash: toHex(leafHash(entry)) };
  }

  /** Puts what is pending into the log, under a new checkpoint. */
  async publish(): Promise<Uint8Array> {
    return this.log.append(this.pending.splice(0));
  }

  /** A batch that a station (or technician) of this party signs; gives each item's intake. */
  async manifest(
    kind: Manifest["kind"],
    lot: string,
    items: readonly Uint8Array[],
    signer: { key?: TestKey; role?: string; change?: Partial<Manifest> } = {},
  ) {
    const { key = testKey("p256"), role = MANIFEST_SIGNERS[kind], change } = signer;
    const name = { commonName: `${role}@${this.id}`, organizationalUnit: role };
    const certificate = issue(this.infrastructure, "client", name, key.spki, { at: hourAgo() });
    const { root, paths } = inclusionProofs(items.map((item) => leafHash(item)));
    const payload = canonicalJson({
      schema: 1,
      id: `${kind}-${randomBytes(4).toString("hex")}`,
      kind,
      lot,
      keyId: key.keyId,
      certificate: toBase64(certificate.der),
      created: this.#clock(),
      count: items.length,
      root: toHex(root),
      ...change,
    } satisfies Manifest);
    const dsse = await signDsse(PAYLOAD_TYPES.manifest, payload, key, key.keyId);
    const { sha256: digest } = this.blob("manifest", dsse);
    return paths.map((path, index) => ({ kind: "manifest" as const, digest, index, path: path.map(toHex) }));
  }
}

export interface TestWorld {
  readonly root: Certificate;
  readonly policy: Policy;
  readonly x: TestParty;
  readonly y: TestParty;
  readonly z: TestParty;
  readonly devices: readonly string[];
  /** in the same order: each device's key, and its chain as injected, leaf first, as PEM */
  readonly credentials: readonly { readonly key: TestKey; readonly chain: string }[];
  /** the salted place that the first device's installation commits to */
  readonly place: { domain: string; salt: string; value: string; commitment: string };
}

export interface WorldOptions {
  /** what lies beside each party's opening of the lot as its certificates' settings; the technician's: the factory's */
  readonly settings?: { readonly y?: readonly Uint8Array[]; readonly z?: readonly Uint8Array[] };
  /** how the technician's certificates differ from the profile's defaults */
  readonly certificate?: Parameters<typeof issue>[4];
  /** what the lot's opening says of attestation; and of each device what its `attested` act says, if it has one */
  readonly attestation?: {
    readonly demand?: NonNullable<ActFields<"lot-opened">["attestation"]>;
    of(device: {
      readonly id: string;
      readonly lot: string;
      readonly slot: number;
      readonly key: TestKey;
    }): Promise<{ fields: ActFields<"attested">; evidence: Uint8Array } | undefined>;
  };
}

export async function testWorld(count: number, options: WorldOptions = {}): Promise<TestWorld> {
  let tick = Date.now();
  const clock = (): string => new Date(tick++).toISOString();
  const at = new Date(tick - 3_600_000);
  const until = new Date(tick + 86_400_000);
  const rootCa = throwawayRoot({ commonName: "Company-X Root" }, undefined, { at });
  const yCa = issueCa(rootCa, { commonName: "Factory-Y CA" }, { pathLen: 1, at });
  const zCa = issueCa(yCa, { commonName: "Technician-Z CA" }, { pathLen: 0, at });
  const x = await TestParty.create("company-x", rootCa, clock);
  const y = await TestParty.create("factory-y", yCa, clock);
  const z = await TestParty.create("technician-z", zCa, clock);
  const profile = { name: "idevid", sha256: profileDigest("idevid") };
  const named = (party: TestParty): Subject => ({ name: party.id, digest: { sha256: sha(party.ca.key.spki) } });

  // Trust, from the root down.
  const document = x.blob("ceremony.yaml", utf8("schema: countersign/ceremony/v1"));
  const ceremony = await x.signed(
    "ceremony",
    named(x),
    {
      document: { sha256: document.sha256 },
      root: toBase64(rootCa.certificate.der),
      keyset: x.keyset,
      crl: toBase64(issueCrl(rootCa)),
      approvals: [],
    },
    { blobs: [document, x.infrastructureBlob()] },
  );
  const delegate = (giver: TestParty, child: TestParty, keyset: ActRef, prev: PrevRef[], parentGrant?: ActRef) =>
    giver.signed(
      "delegation",
      named(child),
      {
        id: `${giver.id}-${child.id}`,
        revision: 1,
        ...(parentGrant === undefined ? {} : { parentGrant }),
        issuer: giver.keyset.ca,
        child: child.id,
        keyset: child.keyset,
        certificate: toBase64(child.ca.certificate.der),
        csrSha256: sha("csr"),
        nonceSha256: sha("nonce"),
        idPrefixes: ["DEV-"],
        profiles: [profile],
        quota: parentGrant === undefined ? 10_000 : 5_000,
        notBefore: at.toISOString(),
        notAfter: until.toISOString(),
        pathLen: child === y ? 1 : 0,
        depth: child === y ? 1 : 0,
        mayBuild: child === y,
        approvals: { threshold: 0 },
      },
      { prev: [...prev, keyset], ...(parentGrant === undefined ? {} : { grant: parentGrant }) },
    );
  const accept = (child: TestParty, keyset: ActRef, grant: ActRef, chain: readonly Certificate[]) =>
    child.signed(
      "acceptance",
      named(child),
      { keyset, chainSha256: sha(Buffer.concat(chain.map((c) => c.der))) },
      { prev: [keyset, grant], grant },
    );
  const yKeyset = await y.signed("keyset", named(y), { keyset: y.keyset }, { blobs: [y.infrastructureBlob()] });
  const yGrant = await delegate(x, y, yKeyset, [ceremony]);
  await accept(y, yKeyset, yGrant, [yCa.certificate, rootCa.certificate]);
  const zKeyset = await z.signed("keyset", named(z), { keyset: z.keyset }, { blobs: [z.infrastructureBlob()] });
  const zGrant = await delegate(y, z, zKeyset, [yKeyset], yGrant);
  await accept(z, zKeyset, zGrant, [zCa.certificate, yCa.certificate, rootCa.certificate]);

  // The lot, and its devices at the factory.
  const lot = "LOT-1";
  const terms = {
    lot,
    builder: y.id,
    issuer: z.id,
    slots: count,
    profile,
    layouts: [{ format: "raw" as const, sha256: sha("layout"), template: { name: "blank.bin", sha256: sha("blank") } }],
    ...(options.attestation?.demand === undefined ? {} : { attestation: options.attestation.demand }),
  };
  const lotSubject: Subject = { name: lot, digest: { sha256: sha(lot) } };
  const { settings = {}, certificate = {} } = options;
  const beside = (party: TestParty, said: readonly Uint8Array[] = []) => ({
    blobs: said.map((bytes) => party.blob("settings", bytes)),
  });
  const yLot = await y.signed("lot-opened", lotSubject, terms, { grant: yGrant, ...beside(y, settings.y) });
  const zLot = await z.signed("lot-opened", lotSubject, terms, {
    grant: zGrant,
    ...beside(z, settings.z ?? settings.y),
  });
  const devices = Array.from({ length: count }, (_, i) => {
    const key = testKey("p256");
    return { id: `DEV-${String(i + 1).padStart(5, "0")}`, slot: i + 1, key, csrSha256: sha(`csr ${i}`) };
  });
  const subjectOf = (d: (typeof devices)[number]): Subject => ({ name: d.id, digest: { sha256: d.key.keyId } });
  const csrItems = devices.map((d) => csrItem(d.csrSha256));
  const builtIntakes = await y.manifest("built", lot, csrItems);
  const built = devices.map((d, i) =>
    y.line(
      "built",
      subjectOf(d),
      { lot, slot: d.slot, spki: toBase64(d.key.spki), csrSha256: d.csrSha256, intake: builtIntakes[i]! },
      { prev: [yLot], grant: yGrant },
    ),
  );

  // The handoff.
  const items = devices.map((d, i) =>
    handoffItem({
      deviceId: d.id,
      spkiSha256: d.key.keyId,
      csrSha256: d.csrSha256,
      slot: d.slot,
      prev: built[i]!.leafHash,
    }),
  );
  const list = inclusionProofs(items.map((item) => leafHash(item)));
  const handoff = {
    id: "HANDOFF-1",
    lot,
    from: y.id,
    to: z.id,
    count,
    listRoot: toHex(list.root),
    discrepancies: [],
  };
  const handoffSubject: Subject = { name: handoff.id, digest: { sha256: handoff.listRoot } };
  const blob = y.blob("list", utf8(items.map((item) => `${new TextDecoder().decode(item)}\n`).join("")));
  const released = await y.signed("handoff-released", handoffSubject, handoff, {
    prev: [yLot],
    grant: yGrant,
    blobs: [blob],
  });
  const received = await z.signed(
    "handoff-received",
    handoffSubject,
    { ...handoff, counterpart: released },
    { prev: [released, zLot], grant: zGrant },
  );

  // What each device is certified after: the receipt, or its attestation.
  const before: PrevRef[] = [];
  for (const [i, d] of devices.entries()) {
    const receipt = { ...received, listIndex: i, path: list.paths[i]!.map(toHex) };
    const attested = await options.attestation?.of({ ...d, lot });
    if (attested === undefined) before.push(receipt);
    else {
      const blobs = [z.blob("attestation", attested.evidence)];
      before.push(z.line("attested", subjectOf(d), attested.fields, { grant: zGrant, prev: [receipt], blobs }));
    }
  }

  // Certificates.
  const certifyIntakes = await z.manifest("certify", lot, csrItems);
  const certificates = devices.map((d) =>
    issue(zCa, "idevid", { commonName: d.id }, d.key.spki, { at, ...certificate }),
  );
  const tbs = inclusionProofs(certificates.map((c) => leafHash(fromHex(sha(c.tbs)))));
  const intent = z.line(
    "intent",
    lotSubject,
    { lot, manifest: certifyIntakes[0]!.digest, tbsRoot: toHex(tbs.root), count },
    { prev: [zLot], grant: zGrant },
  );
  const certified = devices.map((d, i) =>
    z.line(
      "certified",
      subjectOf(d),
      {
        lot,
        slot: d.slot,
        profile,
        certificate: toBase64(certificates[i]!.der),
        purpose: "initial",
        intake: certifyIntakes[i]!,
        intent: { leafHash: intent.leafHash, index: i, path: tbs.paths[i]!.map(toHex) },
      },
      { grant: zGrant, prev: [before[i]!] },
    ),
  );

  // Images and installation.
  const injected = devices.map((d, i) => {
    const chain = Buffer.from(`${pem(certificates[i]!, zCa.certificate, yCa.certificate)}\0`);
    return z.line(
      "injected",
      subjectOf(d),
      {
        lot,
        slot: d.slot,
        receipt: {
          schema: 1,
          deviceId: d.id,
          lot,
          slot: d.slot,
          format: "raw",
          original: { path: "firmware/blank.bin", sha256: sha("blank") },
          image: { path: `devices/${d.id}/image.bin`, sha256: sha(`image ${i}`) },
          region: { offset: 4096, length: 8192 },
          chain: { sha256: sha(chain), encoding: "pem-nul" },
          readBack: true,
          toolVersion: "0.1.0",
        },
        layoutSha256: sha("layout"),
        chains: [{ purpose: "idevid", sha256: sha(chain), certificates: 3 }],
        readBack: { sha256: sha(chain), leafKeyMatches: true },
      },
      { grant: zGrant, prev: [certified[i]!] },
    );
  });
  const installations = devices.map(() => {
    const salt = randomBytes(32);
    const commit = (domain: string, value: string): string => toHex(commitment(domain, salt, value));
    return { salt: toHex(salt), place: commit("installed.place", "Hall 3"), time: commit("installed.time", clock()) };
  });
  const installItems = devices.map((d, i) => installItem(d.id, installations[i]!.place, installations[i]!.time));
  const technician = testKey("p256");
  const installIntakes = await z.manifest("install", lot, installItems, { key: technician });
  for (const [i, d] of devices.entries()) {
    const { place, time } = installations[i]!;
    z.line(
      "installed",
      subjectOf(d),
      { lot, slot: d.slot, technician: technician.keyId, intake: installIntakes[i]!, place, time },
      { grant: zGrant, prev: [injected[i]!] },
    );
  }

  const parties = [x, y, z];
  for (const party of parties) await party.publish();
  const { salt, place } = installations[0]!;
  return {
    root: rootCa.certificate,
    policy: {
      schema: 1,
      rootSha256: sha(rootCa.certificate.der),
      logs: Object.fromEntries(parties.map((party) => [party.id, formatPolicy(party.log.key)])),
    },
    x,
    y,
    z,
    devices: devices.map((d) => d.id),
    credentials: devices.map(({ key }, i) => ({
      key,
      chain: pem(certificates[i]!, zCa.certificate, yCa.certificate),
    })),
    place: { domain: "installed.place", salt, value: "Hall 3", commitment: place },
  };
}

/** Its ledgers, as passports are made from them. */
export async function sourceOf(world: TestWorld): Promise<PassportSource> {
  const parties = new Map<string, TestParty>([world.x, world.y, world.z].map((party) => [party.id, party]));
  const logs = new Map<string, LedgerIndex>();
  for (const { id, log } of parties.values()) {
    const reader = await LogReader.open({ fetch: log.fetch, log: log.key, verify: opensslVerify });
    logs.set(id, await LedgerIndex.read(id, reader));
  }
  const { root, policy } = world;
  return { logs, root, policy, blob: async (party, sha256) => parties.get(party)?.blobs.get(sha256) };
}
