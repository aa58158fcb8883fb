import { toBase64 } from "../../lib/domain/bytes.ts";
import type { Certificate } from "../../lib/pki/certificate.ts";
import type { ActFields } from "../../lib/records/acts.ts";
import { MAX_SHOWN_CERTIFICATE } from "../../lib/records/primitives.ts";
import { findCurrentGrant } from "../../store/grants.ts";
import { sha256Hex } from "../issuing/items.ts";
import type { ReconcileContext } from "./context.ts";

type CounterAlarm = Exclude<ActFields<"alarm">, { what: "unlogged-certificate" }>;

/** Signs and queues the alarm over signatures that nobody of this site asked for; of the same count, it is the same alarm. */
export async function raiseSignatureAlarm(
  context: ReconcileContext,
  evidence: { caKey: string; counted: number; since: number; accounted: number },
): Promise<{ leafHash: string }> {
  const fields = { what: "unaccounted-signatures", evidence } as const;
  return await raiseCounterAlarm(context, `${evidence.caKey}/${evidence.counted}`, fields);
}

/** The same over a count that went back; of the same look before it, it is the same alarm. */
export async function raiseSetBackAlarm(
  context: ReconcileContext,
  { seen, ...counts }: { caKey: string; counted: number; before: number; seen: Date },
): Promise<{ leafHash: string }> {
  const fields = { what: "signature-counter-set-back", evidence: { ...counts, seen: seen.toISOString() } } as const;
  return await raiseCounterAlarm(context, `${counts.caKey}/${counts.before}/${seen.getTime()}`, fields);
}

async function raiseCounterAlarm(
  { db, acts, actSigner, party }: ReconcileContext,
  name: string,
  fields: CounterAlarm,
): Promise<{ leafHash: string }> {
  const step = { workflowId: "reconcile", stepKey: `alarm/${fields.what}/${name}` };
  const before = await acts.find(step.workflowId, step.stepKey);
  if (before !== undefined) return { leafHash: before.leafHash };
  const grant = await findCurrentGrant(db);
  const act = await acts.recordSigned(
    {
      type: "alarm",
      ...step,
      subject: [{ name: party, digest: { sha256: fields.evidence.caKey } }],
      ...(grant === undefined ? {} : { grant: grant.ref }),
      fields,
    },
    actSigner,
  );
  return { leafHash: act.leafHash };
}

/**
 * Signs and queues the alarm over a certificate that no ledger holds; seen again, it is the same alarm. One too large to be
 * shown is named: who stole the key chooses its size.
 * @param caKey SHA-256 of the SPKI whose key signed it, hex
 */
export async function raiseAlarm(
  { db, acts, actSigner, party }: ReconcileContext,
  certificate: Certificate,
  caKey: string,
): Promise<{ leafHash: string; first: boolean }> {
  const sha256 = sha256Hex(certificate.der);
  const name = { workflowId: "reconcile", stepKey: `alarm/unlogged-certificate/${sha256}` };
  // The grant may have changed since: the first recording stands.
  const before = await acts.find(name.workflowId, name.stepKey);
  if (before !== undefined) return { leafHash: before.leafHash, first: false };
  const grant = await findCurrentGrant(db);
  const act = await acts.recordSigned(
    {
      type: "alarm",
      ...name,
      subject: [{ name: party, digest: { sha256 } }],
      ...(grant === undefined ? {} : { grant: grant.ref }),
      fields: { what: "unlogged-certificate", evidence: evidenceOf(certificate.der, caKey) },
    },
    actSigner,
  );
  return { leafHash: act.leafHash, first: act.first };
}

function evidenceOf(der: Uint8Array, caKey: string) {
  return der.length > MAX_SHOWN_CERTIFICATE ? { caKey, size: der.length } : { certificate: toBase64(der) };
}
