import { createHash, generateKeyPairSync, hash, randomBytes, sign, type KeyObject } from "node:crypto";
import { fromUtf8, toBase64, toHex, utf8 } from "../lib/domain/bytes.ts";
import { canonicalJson } from "../lib/domain/json.ts";
import type { Signer } from "../lib/domain/signing.ts";
import { ed25519Raw, formatVkey, KEY_TYPE, noteKey } from "../lib/ledger/note.ts";
import { formatPolicy } from "../lib/ledger/policy.ts";
import { inclusionProofs, leafHash } from "../lib/ledger/tree.ts";
import { parseCertificate, type Certificate } from "../lib/pki/certificate.ts";
import { assembleCrl, buildCrl, lintCrl } from "../lib/pki/crl.ts";
import { issuerFromCertificate, selfIssuer, validityFor } from "../lib/pki/issuer.ts";
import { assembleCertificate, lintTbs } from "../lib/pki/lint.ts";
import { profileDigest, profileNamed, type ProfileName } from "../lib/pki/profiles.ts";
import { buildTbs } from "../lib/pki/tbs.ts";
import { PAYLOAD_TYPES, preAuthEncoding } from "../lib/records/dsse.ts";
import { keysetProofMessage } from "../lib/records/keyset.ts";
import type { Policy } from "../lib/records/policy.ts";
import type { ActRef, BlobRef } from "../lib/records/primitives.ts";
import type { ActDraft, Acts } from "../services/ledger/acts.ts";
import { nodeSha256 } from "../services/ledger/sha256.ts";
import { putBlob } from "../services/ledger/serve.ts";
import type { Db } from "../store/db.ts";

/**
 * The records of a manufacturer that builds one lot, as its site writes them: the root's ceremony, the lot, and a `built`
 * record a device with its place in a batch that the station signed. They hold in an audit. Only the devices' keys are
 * made up: nothing looks for them on the curve.
 */

export const PARTY = "company-x";
export const ORIGIN = "company-x.example/log";
/** Devices in one batch of a station, and so in one transaction. */
export const BATCH = 256;
const LOT = "lot-bench";

/** A CA outside any token. */
export class Ca {
  readonly #key = generateKeyPairSync("ec", { namedCurve: "P-256" });
  readonly spki = spkiOf(this.#key.publicKey);
  readonly certificate: Certificate;

  constructor(commonName: string) {
    const profile = profileNamed("root");
    const validity = validityFor(profile, new Date(), undefined);
    const name = { organization: "Bench", commonName };
    const issuer = selfIssuer({ name, spki: this.spki, ...validity });
    const tbs = buildTbs(profile, { serial: randomBytes(16), ...validity, issuer, subject: name, spki: this.spki });
    const linted = lintTbs(tbs, profile, issuer);
    this.certificate = parseCertificate(assembleCertificate(linted, this.#sign(linted.bytes)));
  }

  issue(profileName: ProfileName, subject: { commonName: string; organizationalUnit?: string }, spki: Uint8Array) {
    const profile = profileNamed(profileName);
    const issuer = issuerFromCertificate(this.certificate);
    const validity = validityFor(profile, new Date(), issuer);
    const linted = lintTbs(
      buildTbs(profile, { serial: serial(), ...validity, issuer, subject, spki }),
      profile,
      issuer,
    );
    return parseCertificate(assembleCertificate(linted, this.#sign(linted.bytes)));
  }

  crl(): Uint8Array {
    const issuer = issuerFromCertificate(this.certificate);
    const thisUpdate = new Date(Math.floor(Date.now() / 1000) * 1000);
    const nextUpdate = new Date(thisUpdate.getTime() + 86_400_000);
    const linted = lintCrl(buildCrl({ number: 1n, thisUpdate, nextUpdate, revoked: [], issuer }), issuer);
    return assembleCrl(linted, this.#sign(linted.bytes));
  }

  #sign(message: Uint8Array): Uint8Array {
    return new Uint8Array(sign("sha256", message, this.#key.privateKey));
  }
}

/** Twenty octets at most, positive, as RFC 5280 wants them. */
function serial(): Uint8Array {
  const bytes = new Uint8Array(randomBytes(16));
  bytes[0] = 0x40 | (bytes[0]! & 0x3f);
  return bytes;
}

export function spkiOf(key: KeyObject): Uint8Array {
  return new Uint8Array(key.export({ type: "spki", format: "der" }));
}

const sha = (bytes: Uint8Array | string): string => hash("sha256", bytes, "hex");

interface Station {
  readonly keyId: string;
  readonly sign: (message: Uint8Array) => Uint8Array;
}

export class BenchLot {
  readonly #station: Station;
  readonly #certificate: string;
  readonly #opened: ActRef;
  #slots = 0;

  private constructor(station: Station, certificate: Certificate, opened: ActRef) {
    this.#station = station;
    this.#certificate = toBase64(certificate.der);
    this.#opened = opened;
  }

  /** Records ceremony and lot of `slots` devices; gives what an auditor pins too. */
  static async open(options: {
    db: Db;
    acts: Acts;
    log: Signer;
    act: Signer;
    /** the size-0 checkpoint */
    checkpoint: Uint8Array;
    slots: number;
  }): Promise<{ lot: BenchLot; root: Certificate; policy: Policy; retryKeys: string[] }> {
    const { db, acts, log, act, checkpoint, slots } = options;
    const [ca, infrastructure] = [new Ca("Bench Root"), new Ca("Bench Infrastructure")];
    const witness = generateKeyPairSync("ed25519");
    const key = noteKey(ORIGIN, KEY_TYPE.ed25519, ed25519Raw(log.spki));
    const witnessKey = noteKey(`${PARTY}.example/witness`, KEY_TYPE.cosignature, ed25519Raw(spkiOf(witness.publicKey)));
    const keys = {
      party: PARTY,
      ca: toBase64(ca.spki),
      act: toBase64(act.spki),
      infrastructure: toBase64(infrastructure.spki),
      log: { origin: ORIGIN, vkey: formatVkey(key) },
      witness: { vkey: formatVkey(witnessKey) },
    };
    const keyset = {
      ...keys,
      proofs: {
        ca: { kind: "self-signed" as const, sha256: sha(ca.certificate.der) },
        infrastructure: { certificateSha256: sha(infrastructure.certificate.der) },
        log: { checkpoint: fromUtf8(checkpoint) },
        witness: { signature: toBase64(sign(null, keysetProofMessage(keys), witness.privateKey)) },
      },
    };
    const blob = async (name: string, bytes: Uint8Array): Promise<BlobRef> => ({
      name,
      sha256: await putBlob(db, bytes),
      size: bytes.length,
    });
    const document = await blob("ceremony.yaml", utf8("schema: countersign/ceremony/v1"));
    const ceremony = await acts.recordSigned(
      {
        type: "ceremony",
        workflowId: "ceremony/bench",
        stepKey: "ceremony",
        subject: [{ name: PARTY, digest: { sha256: sha(ca.spki) } }],
        blobs: [document, await blob("infrastructure", infrastructure.certificate.der)],
        fields: {
          document: { sha256: document.sha256 },
          root: toBase64(ca.certificate.der),
          keyset,
          crl: toBase64(ca.crl()),
          approvals: [],
        },
      },
      act,
    );
    const opened = await acts.recordSigned(
      {
        type: "lot-opened",
        workflowId: `lot/${LOT}`,
        stepKey: "opened",
        subject: [{ name: LOT, digest: { sha256: sha(LOT) } }],
        prev: [{ origin: ORIGIN, leafHash: ceremony.leafHash }],
        fields: {
          lot: LOT,
          builder: PARTY,
          issuer: PARTY,
          slots,
          profile: { name: "idevid", sha256: profileDigest("idevid") },
          layouts: [{ format: "raw", sha256: sha("layout"), template: { name: "blank.bin", sha256: sha("blank") } }],
        },
      },
      act,
    );
    const stationKey = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const spki = spkiOf(stationKey.publicKey);
    const name = { commonName: `station@${PARTY}`, organizationalUnit: "station" };
    const station = {
      keyId: sha(spki),
      sign: (message: Uint8Array) => sign("sha256", message, stationKey.privateKey),
    };
    const lot = new BenchLot(station, infrastructure.issue("client", name, spki), {
      origin: ORIGIN,
      leafHash: opened.leafHash,
    });
    const policy = { schema: 1 as const, rootSha256: sha(ca.certificate.der), logs: { [PARTY]: formatPolicy(key) } };
    return { lot, root: ca.certificate, policy, retryKeys: [ceremony.retryKey, opened.retryKey] };
  }

  /** The next `count` devices: the batch as the station signs it, and the records about them. */
  batch(count: number): { readonly manifest: Uint8Array; readonly drafts: ActDraft<"built">[] } {
    const first = this.#slots + 1;
    this.#slots += count;
    const csrs = Array.from({ length: count }, (_, i) => sha(`csr ${first + i}`));
    const leaves = csrs.map((csr) => leafHash(utf8(`["csr","${csr}"]`), nodeSha256));
    const { root, paths } = inclusionProofs(leaves, nodeSha256);
    const payload = canonicalJson({
      schema: 1,
      id: `batch-${first}`,
      kind: "built",
      lot: LOT,
      keyId: this.#station.keyId,
      certificate: this.#certificate,
      created: new Date().toISOString(),
      count,
      root: toHex(root),
    });
    const sig = this.#station.sign(preAuthEncoding(PAYLOAD_TYPES.manifest, payload));
    const manifest = canonicalJson({
      payload: toBase64(payload),
      payloadType: PAYLOAD_TYPES.manifest,
      signatures: [{ keyid: this.#station.keyId, sig: toBase64(sig) }],
    });
    const digest = sha(manifest);
    const drafts = csrs.map((csrSha256, index): ActDraft<"built"> => {
      const slot = first + index;
      const spki = deviceSpki(slot);
      return {
        type: "built",
        workflowId: `lot/${LOT}`,
        stepKey: `built/${slot}`,
        subject: [{ name: `DEV-${slot}`, digest: { sha256: sha(spki) } }],
        prev: [this.#opened],
        fields: {
          lot: LOT,
          slot,
          spki: toBase64(spki),
          csrSha256,
          intake: { kind: "manifest", digest, index, path: paths[index]!.map(toHex) },
        },
      };
    });
    return { manifest, drafts };
  }
}

/** SubjectPublicKeyInfo of an uncompressed P-256 key, up to the coordinates. */
const P256_SPKI = Buffer.from("3059301306072a8648ce3d020106082a8648ce3d03010703420004", "hex");

function deviceSpki(slot: number): Uint8Array {
  return Buffer.concat([P256_SPKI, createHash("sha512").update(`device ${slot}`).digest()]);
}
