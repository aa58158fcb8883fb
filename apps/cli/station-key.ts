import {
  createHash,
  createPrivateKey,
  createPublicKey,
  randomBytes,
  randomUUID,
  sign,
  X509Certificate,
} from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { toBase64, toHex } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { canonicalJson } from "../../lib/domain/json.ts";
import type { Signer } from "../../lib/domain/signing.ts";
import { leafHash, rootOf } from "../../lib/ledger/tree.ts";
import { PAYLOAD_TYPES, signDsse } from "../../lib/records/dsse.ts";
import { commitment, csrItem, installItem, type Manifest } from "../../lib/records/manifest.ts";
import type { SiteClient } from "./site-client.ts";

const sha256 = (bytes: Uint8Array): Uint8Array => createHash("sha256").update(bytes).digest();

/** The key by which a station (or a technician) answers for what it hands in. */
export interface StationKey {
  readonly signer: Signer;
  /** SHA-256 of the SPKI, hex */
  readonly keyId: string;
  /** DER, by the site's infrastructure CA */
  readonly certificate: Uint8Array;
}

/**
 * The key whose certificate the client shows: TLS and manifests of one station have one identity.
 * @throws CountersignError `usage` for an operator's client, `component-missing` when the key can't be read
 */
export async function stationKeyOf(client: Pick<SiteClient, "party" | "folder" | "role">): Promise<StationKey> {
  if (client.role === "operator") {
    throw new CountersignError("usage", "batches are signed by a station or a technician: open the client as one");
  }
  const path = join(client.folder, "infra", client.role);
  try {
    const [key, certificate] = await Promise.all([readFile(`${path}.key`), readFile(`${path}.pem`)]);
    return stationKey(key.toString(), certificate.toString());
  } catch (cause) {
    throw new CountersignError(
      "component-missing",
      `the ${client.role}'s key and certificate of ${client.party} can't be read at ${path}.{key,pem}: start the stack with \`countersign up\``,
      { cause },
    );
  }
}

/** @param key P-256, PEM; @param certificate PEM */
export function stationKey(key: string, certificate: string): StationKey {
  const privateKey = createPrivateKey(key);
  const spki = createPublicKey(privateKey).export({ type: "spki", format: "der" });
  return {
    signer: {
      spki,
      algorithm: "ecdsa-p256-sha256",
      sign: async (message) => sign("sha256", message, { key: privateKey, dsaEncoding: "der" }),
    },
    keyId: toHex(sha256(spki)),
    certificate: new X509Certificate(certificate).raw,
  };
}

async function signManifest(
  key: StationKey,
  what: { kind: Manifest["kind"]; lot: string; leaves: readonly Uint8Array[] },
): Promise<Uint8Array> {
  const root = rootOf(
    what.leaves.map((leaf) => leafHash(leaf, sha256)),
    sha256,
  );
  const manifest: Manifest = {
    schema: 1,
    id: randomUUID(),
    kind: what.kind,
    lot: what.lot,
    keyId: key.keyId,
    certificate: toBase64(key.certificate),
    created: new Date().toISOString(),
    count: what.leaves.length,
    root: toHex(root),
  };
  return await signDsse(PAYLOAD_TYPES.manifest, canonicalJson(manifest), key.signer, key.keyId);
}

/** The signed manifest of a batch of CSRs (DER). */
export function csrManifest(
  key: StationKey,
  kind: "built" | "certify",
  lot: string,
  csrs: readonly Uint8Array[],
): Promise<Uint8Array> {
  return signManifest(key, { kind, lot, leaves: csrs.map((der) => csrItem(toHex(sha256(der)))) });
}

export interface Installation {
  readonly deviceId: string;
  /** where, in the installer's own terms */
  readonly place: unknown;
  /** when, RFC 3339 */
  readonly time: string;
}
export interface SaltedInstallation {
  readonly deviceId: string;
  readonly place: { salt: string; value: unknown };
  readonly time: { salt: string; value: unknown };
}

/** The signed manifest of installations, and the items to post with it: each value behind a fresh salt. */
export async function installManifest(
  key: StationKey,
  lot: string,
  installations: readonly Installation[],
): Promise<{ manifest: Uint8Array; items: SaltedInstallation[] }> {
  const salted = installations.map(({ deviceId, place, time }) => ({
    deviceId,
    place: { salt: randomBytes(32), value: place },
    time: { salt: randomBytes(32), value: time },
  }));
  const leaves = salted.map(({ deviceId, place, time }) =>
    installItem(
      deviceId,
      toHex(commitment("place", place.salt, place.value, sha256)),
      toHex(commitment("time", time.salt, time.value, sha256)),
    ),
  );
  const items = salted.map(({ deviceId, place, time }) => ({
    deviceId,
    place: { salt: place.salt.toString("hex"), value: place.value },
    time: { salt: time.salt.toString("hex"), value: time.value },
  }));
  return { manifest: await signManifest(key, { kind: "install", lot, leaves }), items };
}
