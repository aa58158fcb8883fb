import { fromBase64, fromUtf8 } from "../../domain/bytes.ts";
import { signatureAlgorithmForKey } from "../../pki/algorithms.ts";
import { parseCertificate } from "../../pki/certificate.ts";
import { OID } from "../../pki/oids.ts";
import { keyAlgorithmOf, keyId } from "../../pki/spki.ts";
import { parseDsse, PAYLOAD_TYPES, verifyDsse } from "../../records/dsse.ts";
import { csrItem, manifest as manifestSchema, MANIFEST_SIGNERS, type Manifest } from "../../records/manifest.ts";
import { leafHash } from "../tree.ts";
import { wrong, type AuditState, type PartyState, type Placed } from "./state.ts";

/** What a station or a technician handed in: the signed batch that stands behind a device's record. */

/** What a batch says, read once for all its items. */
const manifests = new WeakMap<Uint8Array, Manifest>();

function manifestIn(bytes: Uint8Array): Manifest {
  const known = manifests.get(bytes);
  if (known !== undefined) return known;
  const { payload } = parseDsse(bytes, PAYLOAD_TYPES.manifest);
  const manifest = manifestSchema.parse(JSON.parse(fromUtf8(payload)));
  manifests.set(bytes, manifest);
  return manifest;
}

/** The batch that a station or technician signed must hold this item; its DSSE bytes lie beside the ledger. */
export async function checkIntake(
  at: Placed<"built" | "certified" | "installed">,
  kind: Manifest["kind"],
  item: Uint8Array,
  /** the device's request, which EST names itself; undefined where EST has no part */
  csrSha256: string | undefined,
  party: PartyState,
  state: AuditState,
): Promise<void> {
  const { intake, lot } = at.act.fields;
  const name = at.act.subject[0]!.name;
  if (intake.kind === "est") {
    if (csrSha256 === undefined || intake.csrSha256 !== csrSha256) {
      wrong(state, at, "intake-invalid", "no enrolment of this device's request stands behind it", name);
    }
    return;
  }
  const bytes = await state.blob(party.id, intake.digest);
  if (!bytes)
    return wrong(state, at, "intake-invalid", "the signed batch it names doesn't lie beside the ledger", name);
  try {
    const manifest = manifestIn(bytes);
    if (manifest.kind !== kind)
      return wrong(state, at, "intake-invalid", `the batch was signed to ${manifest.kind}`, name);
    if (manifest.lot !== lot) return wrong(state, at, "intake-invalid", `the batch was for lot ${manifest.lot}`, name);
    if ("technician" in at.act.fields && at.act.fields.technician !== manifest.keyId) {
      wrong(state, at, "intake-invalid", "the technician it names is not who signed the batch", name);
    }
    const leaf = leafHash(item, state.sha256);
    const { count: size, root } = manifest;
    if (!state.trees.holds({ leafHash: leaf, index: intake.index, size, path: intake.path, root })) {
      wrong(state, at, "intake-invalid", "the signed batch doesn't hold this device", name);
    }
  } catch {
    wrong(state, at, "intake-invalid", "the signed batch it names can't be read", name);
  }
}

/** A batch is signed by a key that the party's own infrastructure CA certified. Checked once a batch. */
export async function checkManifestSigner(
  at: Placed,
  digest: string,
  party: PartyState,
  state: AuditState,
): Promise<void> {
  const bytes = await state.blob(party.id, digest);
  if (!bytes || !party.keyset) return wrong(state, at, "intake-invalid", "the signed batch it names is missing");
  try {
    const dsse = parseDsse(bytes, PAYLOAD_TYPES.manifest);
    const { certificate, keyId: named, kind, created } = manifestSchema.parse(JSON.parse(fromUtf8(dsse.payload)));
    const signer = parseCertificate(fromBase64(certificate));
    if (
      !(await state.verify({
        ...keyOf(fromBase64(party.keyset.infrastructure)),
        message: signer.tbs,
        signature: signer.signature,
      }))
    ) {
      return wrong(state, at, "intake-invalid", "the batch's signer is not certified by the party's infrastructure CA");
    }
    if (keyId(signer.spki) !== named || !(await verifyDsse(dsse, keyOf(signer.spki), state.verify))) {
      wrong(state, at, "intake-invalid", "the batch is not signed by the certificate it names");
    }
    // Two clocks: the signer's for the end, the site's, whose CA certified the signer, for the beginning.
    const valid = new Date(at.act.time) >= signer.notBefore && new Date(created) <= signer.notAfter;
    if (signer.basicConstraints?.ca === true || !valid) {
      wrong(state, at, "intake-invalid", "the batch's signer is a CA, or its certificate was not valid then");
    }
    const roles = signer.subject.rdns.flat().filter((attribute) => attribute.type === OID.organizationalUnitName);
    if (roles.length !== 1 || roles[0]?.text !== MANIFEST_SIGNERS[kind]) {
      wrong(state, at, "intake-invalid", `a ${kind} batch is not signed by a ${MANIFEST_SIGNERS[kind]}`);
    }
  } catch {
    wrong(state, at, "intake-invalid", "the signed batch it names can't be read");
  }
}

function keyOf(spki: Uint8Array) {
  return { spki, keyId: keyId(spki), algorithm: signatureAlgorithmForKey(keyAlgorithmOf(spki)) };
}

export async function checkBuiltIntake(at: Placed<"built">, party: PartyState, state: AuditState): Promise<void> {
  const { csrSha256 } = at.act.fields;
  await checkIntake(at, "built", csrItem(csrSha256), csrSha256, party, state);
}
