import { basename, join } from "node:path";
import { fromBase64, fromHex, fromUtf8, toBase64 } from "../../lib/domain/bytes.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { parseCertificate } from "../../lib/pki/certificate.ts";
import { keyId } from "../../lib/pki/spki.ts";
import type { ActFields, ActType } from "../../lib/records/acts.ts";
import type { Act, AnyAct } from "../../lib/records/statement.ts";
import type { Tx } from "../../store/db.ts";
import { insertAttestation } from "../../store/attestations.ts";
import { insertDevices } from "../../store/devices.ts";
import { claimForHandoff, getHandoff, insertHandoff, updateHandoff } from "../../store/handoffs.ts";
import { getLot, insertLot } from "../../store/lots.ts";
import { ownCaCertificates } from "../../store/reconcile.ts";
import {
  adoptCertificate,
  adoptDelegation,
  adoptInjection,
  adoptInstallation,
  adoptPrev,
  adoptRevocation,
  adoptSlot,
  adoptStage,
  childCertificate,
  grantCertificate,
} from "../../store/recovery.ts";
import { handoffWorkflowId } from "../custody/context.ts";
import { decodeList } from "../custody/list.ts";
import { takeIn } from "../custody/receive.ts";
import { readSettings } from "../custody/settings.ts";
import { pinnedLayout, termsOf } from "../custody/terms.ts";
import { enqueue } from "../parties/outbox.ts";
import { signerOf } from "../reconcile/seen.ts";

export interface EffectContext {
  readonly party: string;
  readonly imagesDir: string;
  /** bytes that lie beside the ledger, digest checked. @throws CountersignError `not-found` */
  readonly blob: (sha256: string) => Promise<Uint8Array>;
}

export interface LoggedAct {
  readonly act: AnyAct;
  readonly entry: Uint8Array;
  /** hex */
  readonly leafHash: string;
}

/**
 * Brings what followed from one act of this site back into its tables, as the site itself did when it recorded it. Acts
 * come in the ledger's order, each once.
 * @returns false for an act whose consequences the ledger alone doesn't tell: somebody has to look
 * @throws CountersignError `not-found` where a blob, lot or handoff is missing that the act rests on
 */
export async function applyAct(tx: Tx, logged: LoggedAct, context: EffectContext): Promise<boolean> {
  const { act, leafHash } = logged;
  const ref = { origin: act.origin, leafHash };
  const device = act.subject[0]!.name;
  switch (act.type) {
    case "lot-opened":
      await adoptLot(tx, act, ref, context);
      return true;
    case "built": {
      const { lot, slot, csrSha256 } = act.fields;
      const spkiSha256 = act.subject[0]!.digest.sha256;
      await insertDevices(tx, [{ id: device, spkiSha256, lot, slot, csrSha256, stage: "built", prev: ref }]);
      await adoptSlot(tx, lot, slot);
      return true;
    }
    case "handoff-released":
      await adoptRelease(tx, act, context);
      return true;
    case "handoff-received":
      await adoptReceipt(tx, act, logged, context);
      return true;
    case "attested":
      if (!(await adoptPrev(tx, device, ref))) return false;
      await insertAttestation(tx, { device, evidenceSha256: act.fields.evidence, leafHash });
      return true;
    case "certified":
      await adoptCertified(tx, act, leafHash);
      return adoptStage(tx, device, "certified", ref);
    case "injected": {
      const { receipt, lot } = act.fields;
      const imagePath = join(context.imagesDir, lot, device, basename(receipt.image.path));
      await adoptInjection(tx, { device, receipt, imagePath, leafHash });
      return adoptStage(tx, device, "injected", ref);
    }
    case "installed": {
      const { technician, place, time } = act.fields;
      await adoptInstallation(tx, { device, technician, place, time, leafHash });
      return adoptStage(tx, device, "installed", ref);
    }
    case "delegation": {
      const { child, revision, notAfter } = act.fields;
      const { ca, csrSha256, nonceSha256 } = act.fields;
      const certificate = fromBase64(act.fields.certificate);
      const request =
        ca === undefined ? {} : { request: { csr: await context.blob(csrSha256), csrSha256, nonceSha256 } };
      return adoptDelegation(tx, { child, revision, notAfter, certificate, ...request, ...ref, entry: logged.entry });
    }
    case "revoked":
      return adoptRevocation(tx, {
        ...{ subject: device, subjectKeyId: act.subject[0]!.digest.sha256, leafHash, time: new Date(act.time) },
        ...act.fields,
        issuerKeyId: await issuerOf(tx, act.fields),
        reason: act.fields.effect === "final" ? act.fields.reason : "certificateHold",
        invalidity: act.fields.effect === "final" ? act.fields.invalidity : undefined,
      });
    // Nothing in the tables rests on them but themselves. Of an intent without its certificate nothing was released.
    case "intent":
    case "rotated":
    case "alarm":
    case "recovered":
      return true;
    default:
      return false;
  }
}

/** Which of this site's CA keys signed the child's certificate that is revoked. */
async function issuerOf(tx: Tx, { target, certificate }: ActFields<"revoked">): Promise<string | undefined> {
  const held = target === "ca" ? await childCertificate(tx, certificate.act) : undefined;
  if (held === undefined) return undefined;
  const own = (await ownCaCertificates(tx)).map((der) => parseCertificate(der).spki);
  const signer = signerOf(parseCertificate(held), own);
  return signer && keyId(signer);
}

async function adoptLot(
  tx: Tx,
  { fields, blobs }: Act<"lot-opened">,
  ref: { origin: string; leafHash: string },
  { blob }: EffectContext,
): Promise<void> {
  const layouts = [];
  for (const layout of fields.layouts) {
    const { format, ...placement } = JSON.parse(fromUtf8(await blob(layout.sha256))) as { format: string };
    layouts.push(pinnedLayout.parse({ ...layout, format, placement }));
  }
  const { lot: id, builder, issuer, slots, profile } = fields;
  const settings = blobs.find(({ name }) => name === "settings");
  const certificate = settings === undefined ? {} : readSettings(await blob(settings.sha256));
  await insertLot(tx, { id, builder, issuer, slots, profile, layouts, certificate, ref });
}

/** Left where the site signs and sends it: both find what was done, and go on from there. */
async function adoptRelease(tx: Tx, act: Act<"handoff-released">, { blob }: EffectContext): Promise<void> {
  const { id, lot: lotId, to, count, listRoot } = act.fields;
  const list = await blob(blobNamed(act, "list"));
  const terms = termsOf(await getLot(tx, lotId));
  const time = new Date(act.time);
  const common = { id, lot: lotId, peer: to, count, listRoot, list, terms, time };
  await insertHandoff(tx, { ...common, direction: "out", state: "releasing" });
  await claimForHandoff(
    tx,
    id,
    decodeList(list).map((item) => item.deviceId),
  );
}

async function adoptReceipt(
  tx: Tx,
  act: Act<"handoff-received">,
  { entry, leafHash }: LoggedAct,
  { blob }: EffectContext,
): Promise<void> {
  const { id, lot: lotId, from, count, listRoot, discrepancies, counterpart } = act.fields;
  const list = await blob(blobNamed(act, "list"));
  const terms = termsOf(await getLot(tx, lotId));
  const time = new Date(act.time);
  const common = { id, lot: lotId, peer: from, count, listRoot, list, terms, time };
  await insertHandoff(tx, { ...common, direction: "in", state: "offered", releaseLeaf: counterpart.leafHash });
  await updateHandoff(tx, id, { state: "received", time, discrepancies, receiptAct: entry, receiptLeaf: leafHash });
  await takeIn(tx, await getHandoff(tx, id), decodeList(list), { origin: act.origin, leafHash });
  await enqueue(tx, {
    receiver: from,
    type: "handoff-receipt",
    retryKey: `${handoffWorkflowId(id)}/receipt`,
    body: { act: toBase64(entry) },
  });
}

async function adoptCertified(tx: Tx, { fields, grant, subject, retryKey }: Act<"certified">, leafHash: string) {
  const der = fromBase64(fields.certificate);
  const { serial, tbs } = parseCertificate(der);
  const ca = grant && (await grantCertificate(tx, grant.leafHash));
  if (grant === undefined || ca === undefined) {
    throw new CountersignError(
      "not-found",
      `device ${subject[0]!.name} was certified under a grant that the restored database doesn't hold: restore a newer backup`,
    );
  }
  await adoptCertificate(tx, {
    device: subject[0]!.name,
    lot: fields.lot,
    profile: fields.profile.name,
    issuerKeyId: keyId(parseCertificate(ca).spki),
    serial,
    tbs,
    intent: fields.intent,
    intake: fields.intake,
    grant,
    certificate: der,
    retryKey,
    leafHash,
  });
}

function blobNamed<T extends ActType>({ type, blobs, subject }: Act<T>, name: string): string {
  const found = blobs.find((blob) => blob.name === name);
  if (found) return found.sha256;
  throw new CountersignError("not-found", `the ${type} act of ${subject[0]!.name} names no ${name}`);
}

/** What lies beside the ledger and this act rests on (hex digests): it has to be there again. */
export function blobsOf(act: AnyAct): string[] {
  const digests = act.blobs.map((blob) => blob.sha256);
  const { intake } = act.fields as Partial<ActFields<"certified">>;
  if (intake?.kind === "manifest") digests.push(intake.digest);
  return digests;
}

export const ownPrev = (act: AnyAct): Uint8Array[] =>
  act.prev.filter(({ origin }) => origin === act.origin).map(({ leafHash }) => fromHex(leafHash));
