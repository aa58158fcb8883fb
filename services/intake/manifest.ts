import { X509Certificate } from "node:crypto";
import { nodeVerify } from "../../hsm/index.ts";
import { fromBase64, fromUtf8, toHex } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { leafHash, rootOf } from "../../lib/ledger/tree.ts";
import { signatureAlgorithmForKey } from "../../lib/pki/algorithms.ts";
import { keyAlgorithmOf } from "../../lib/pki/spki.ts";
import { parseDsse, PAYLOAD_TYPES, verifyDsse } from "../../lib/records/dsse.ts";
import { manifest as manifestSchema, MANIFEST_SIGNERS, type Manifest } from "../../lib/records/manifest.ts";
import { nodeSha256 } from "../ledger/index.ts";
import { sha256Hex } from "../ledger/sha256.ts";

/** Items in one posted batch: one activity's worth. */
export const MAX_BATCH_ITEMS = 256;
/** The DSSE envelope around a manifest with its certificate. */
export const MAX_MANIFEST_BYTES = 32 * 1024;

export interface VerifiedManifest {
  readonly manifest: Manifest;
  /** of the DSSE bytes, hex */
  readonly sha256: string;
}

/**
 * A batch's manifest: signed by a station (or technician) that this site's infrastructure CA certified, over exactly
 * these items.
 * @param leaves what the manifest's tree is over, in order (lib/records/manifest.ts)
 * @throws CountersignError `envelope-invalid`, `input-invalid`, `input-too-large`, `unauthorized`
 */
export async function verifyManifest(
  dsse: Uint8Array,
  leaves: readonly Uint8Array[],
  options: { infrastructure: Uint8Array; now: Date },
): Promise<VerifiedManifest> {
  const opened = parseDsse(dsse, PAYLOAD_TYPES.manifest, MAX_MANIFEST_BYTES);
  const manifest = readManifest(opened.payload);
  if (manifest.count !== leaves.length || manifest.count > MAX_BATCH_ITEMS) {
    throw new CountersignError(
      "input-invalid",
      `the manifest counts ${manifest.count} items and ${leaves.length} came with it; at most ${MAX_BATCH_ITEMS} are allowed`,
    );
  }
  const root = rootOf(
    leaves.map((leaf) => leafHash(leaf, nodeSha256)),
    nodeSha256,
  );
  if (toHex(root) !== manifest.root) {
    throw new CountersignError("input-invalid", "the items are not those that the manifest was signed over");
  }
  const spki = signerKey(manifest, options);
  const algorithm = signatureAlgorithmForKey(keyAlgorithmOf(spki));
  if (!(await verifyDsse(opened, { spki, keyId: manifest.keyId, algorithm }, nodeVerify))) {
    throw new CountersignError("unauthorized", "the manifest is not signed by the key of the certificate in it");
  }
  return { manifest, sha256: sha256Hex(dsse) };
}

function readManifest(payload: Uint8Array): Manifest {
  try {
    return manifestSchema.parse(JSON.parse(fromUtf8(payload)));
  } catch (cause) {
    throw new CountersignError("input-invalid", "the manifest's payload is no manifest of schema 1", { cause });
  }
}

function signerKey(manifest: Manifest, { infrastructure, now }: { infrastructure: Uint8Array; now: Date }): Uint8Array {
  let certificate: X509Certificate;
  let spki: Uint8Array;
  try {
    certificate = new X509Certificate(fromBase64(manifest.certificate));
    spki = certificate.publicKey.export({ type: "spki", format: "der" });
  } catch (cause) {
    throw new CountersignError("input-invalid", "the manifest's certificate can't be read", { cause });
  }
  const ca = new X509Certificate(infrastructure);
  if (certificate.ca || !certificate.checkIssued(ca) || !certificate.verify(ca.publicKey)) {
    throw new CountersignError(
      "unauthorized",
      "the manifest's signer was not certified by this site's infrastructure CA",
    );
  }
  if (now < certificate.validFromDate || now > certificate.validToDate) {
    throw new CountersignError("unauthorized", "the certificate of the manifest's signer is not valid now: renew it");
  }
  if (sha256Hex(spki) !== manifest.keyId) {
    throw new CountersignError("input-invalid", "the manifest names another key than its certificate holds");
  }
  const roles = certificate.subject.split("\n").filter((line) => line.startsWith("OU="));
  const allowed = MANIFEST_SIGNERS[manifest.kind];
  if (roles.length !== 1 || roles[0]!.slice(3) !== allowed) {
    throw new CountersignError("unauthorized", `a ${manifest.kind} batch is signed by a ${allowed}`);
  }
  return spki;
}
