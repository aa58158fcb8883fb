import { parseCertificate } from "../../lib/pki/certificate.ts";
import { CountersignError, errorCodeOf, isCountersignError } from "../../lib/domain/errors.ts";
import type { Signer } from "../../lib/domain/signing.ts";
import { keyId } from "../../lib/pki/spki.ts";
import { REVOCATION_REASONS, type ActFields } from "../../lib/records/acts.ts";
import { parseEntry } from "../../lib/records/statement.ts";
import { findCaCertificate, listOnlineCas } from "../../store/authority.ts";
import { inTransaction, type Db, type Tx } from "../../store/db.ts";
import { findDelegation, lockDelegation, supersededCertificates } from "../../store/delegations.ts";
import { findCurrentGrant } from "../../store/grants.ts";
import { announceRevocations } from "../../store/hub-blocks.ts";
import {
  actBefore,
  insertStep,
  lockDeviceCertificates,
  refuseStep,
  stepsOf,
  storeStepAct,
  unrecordedSteps,
  type OwnCertificate,
  type Revocation,
  type RevocationEffect,
  type RevocationTarget,
} from "../../store/revocations.ts";
import { sha256Hex } from "../ledger/sha256.ts";
import { signerOf } from "../reconcile/seen.ts";
import { retryKeyOf, type Acts } from "../ledger/acts.ts";

/** Taking back what this site's CA has signed: the operator's order, and the act that makes it evidence. */

export interface RevocationOrder {
  readonly effect: RevocationEffect;
  readonly reason: (typeof REVOCATION_REASONS)[number];
  readonly invalidity?: Date | undefined;
  /** whose order it is */
  readonly by: string;
}

export interface OrderedTarget {
  readonly id: string;
  readonly target: RevocationTarget | null;
  readonly serials: readonly string[];
  /** `ordered`: to be recorded; `already`: so before; `unknown`: this site issued nothing to it; `refused`: see `error` */
  readonly state: "ordered" | "already" | "unknown" | "refused";
  readonly steps: readonly number[];
  readonly error?: { readonly code: string; readonly message: string };
}

/**
 * Orders one device's certificates, or a child's CA certificate, to be revoked, held or held no longer. From its commit on
 * this site records no custody step of a device whose certificate is revoked or held.
 * @param dryRun says what would be done, and does nothing
 */
export async function orderRevocation(
  db: Db,
  wanted: { id: string; kind?: RevocationTarget | undefined },
  order: RevocationOrder,
  dryRun = false,
): Promise<OrderedTarget> {
  try {
    return await inTransaction(db, async (tx) => {
      const found = await certificatesOf(tx, wanted);
      const [first] = found;
      if (first === undefined) return { id: wanted.id, target: null, serials: [], state: "unknown", steps: [] };
      if (order.reason === "cACompromise" && first.target === "device") {
        throw new CountersignError("input-invalid", `${wanted.id} is a device: cACompromise is a CA's`);
      }
      const steps: number[] = [];
      let fresh = false;
      for (const one of found) {
        const { step, already } = await next(tx, one, order);
        if (already !== undefined) steps.push(already);
        else {
          fresh = true;
          if (!dryRun) steps.push((await insertStep(tx, { ...one, ...step })).id);
        }
      }
      const serials = found.map(({ serial }) => serial);
      return { id: wanted.id, target: first.target, serials, state: fresh ? "ordered" : "already", steps };
    });
  } catch (error) {
    if (!isCountersignError(error) || error.kind === "internal" || error.kind === "unavailable") throw error;
    const { code, message } = error;
    return { id: wanted.id, target: null, serials: [], state: "refused", steps: [], error: { code, message } };
  }
}

async function certificatesOf(
  tx: Tx,
  { id, kind }: { id: string; kind?: RevocationTarget | undefined },
): Promise<OwnCertificate[]> {
  const devices = kind === "ca" ? [] : await lockDeviceCertificates(tx, id);
  const child = kind === "device" ? [] : await childCas(tx, id);
  if (devices.length > 0 && child.length > 0) {
    throw new CountersignError("input-invalid", `${id} is a device and a child of this site: say which`);
  }
  return child.length === 0 ? devices : child;
}

/** All of a child's CA certificates: those that were renewed are for the same key. */
async function childCas(tx: Tx, child: string): Promise<OwnCertificate[]> {
  if ((await findDelegation(tx, child)) === undefined) return [];
  const { certificate, actLeafHash } = await lockDelegation(tx, child);
  const own = await ownCaKeys(tx);
  if (own.length === 0) return [];
  const last = certificate === null || actLeafHash === null ? [] : [{ certificate, leafHash: actLeafHash }];
  return [...(await supersededCertificates(tx, child)), ...last].map((one) => {
    const parsed = parseCertificate(one.certificate);
    const signer = signerOf(parsed, own) ?? own[0]!;
    const { spki, serial } = parsed;
    return { target: "ca", subject: child, subjectKeyId: keyId(spki), issuerKeyId: keyId(signer), serial, ...one };
  });
}

/** SPKIs of this site's CA, the present one first: a child's certificate may be by one that came before it. */
async function ownCaKeys(tx: Tx): Promise<Uint8Array[]> {
  const [present, online] = await Promise.all([findCaCertificate(tx), listOnlineCas(tx)]);
  const all = [...(present ? [present] : []), ...online.filter(({ keyId: id }) => id !== present?.keyId)];
  return all.map(({ certificate }) => parseCertificate(certificate).spki);
}

/** Holds and lifts of one certificate; the last word is always to be had. */
const MOST_STEPS = 1000;

async function next(tx: Tx, one: OwnCertificate, { effect, reason, invalidity, by }: RevocationOrder) {
  const steps = await stepsOf(tx, one.leafHash);
  const last = steps.findLast(({ errorCode }) => errorCode === null);
  const step = {
    step: (steps.at(-1)?.step ?? 0) + 1,
    effect,
    reason: effect === "final" ? reason : "certificateHold",
    invalidity: (effect === "final" ? invalidity : undefined) ?? null,
    requestedBy: by,
  };
  if (last?.effect === effect) return { step, already: last.id };
  const conflict = (why: string): CountersignError => new CountersignError("state-conflict", `${one.subject}: ${why}`);
  if (last?.effect === "final") throw conflict("its certificate is revoked for good");
  if (effect === "lift" && last === undefined) throw conflict("its certificate isn't held");
  if (effect !== "final" && step.step > MOST_STEPS) {
    throw conflict("its certificate was held and lifted too often: revoke it for good, and have it certified anew");
  }
  if (last !== undefined && last.actLeaf === null) throw conflict("another order is under way: ask again in a moment");
  return { step };
}

export interface RecordingContext {
  readonly db: Db;
  readonly acts: Acts;
  readonly actSigner: Signer;
}

const AT_ONCE = 8;
const WAIT_MS = 60_000;

/**
 * Records the next ordered steps as acts, and waits until a signed checkpoint covers them. Safe to run again, and beside
 * itself: the acts are named by their certificate and step.
 * @returns how many were looked at; 0 when nothing is left
 */
export async function recordRevocations(context: RecordingContext, limit = 256): Promise<number> {
  const { db, acts } = context;
  const open = await unrecordedSteps(db, limit);
  const grant = await findCurrentGrant(db);
  const recorded: string[] = [];
  const queue = open.values();
  await Promise.all(
    Array.from({ length: AT_ONCE }, async () => {
      // One iterator for all of them: each step is taken once.
      for (const step of queue) if (await recordOne(context, step, grant?.ref)) recorded.push(...keyOf(step));
    }),
  );
  if (recorded.length > 0) {
    await acts.waitIncluded(recorded, { timeoutMs: WAIT_MS });
    await announceRevocations(db);
  }
  return open.length;

  function keyOf(step: Revocation): string[] {
    const { workflowId, stepKey } = named(step);
    return [retryKeyOf(acts.origin, workflowId, stepKey)];
  }
}

const named = ({ certificateLeaf, step }: Revocation) => ({
  workflowId: `revocation/${certificateLeaf}`,
  stepKey: `step/${step}`,
});

async function recordOne(
  { db, acts, actSigner }: RecordingContext,
  step: Revocation,
  grant: { origin: string; leafHash: string } | undefined,
): Promise<boolean> {
  try {
    const act = await acts.recordSigned(
      {
        type: "revoked",
        ...named(step),
        subject: [{ name: step.subject, digest: { sha256: step.subjectKeyId } }],
        ...(grant === undefined ? {} : { grant }),
        prev: [{ origin: acts.origin, leafHash: await actBefore(db, step) }],
        fields: fieldsOf(step),
      },
      actSigner,
    );
    const time = new Date(parseEntry(act.entry).act.time);
    await storeStepAct(db, step.id, { leafHash: act.leafHash, time });
    return true;
  } catch (error) {
    if (!isCountersignError(error) || error.kind === "internal" || error.kind === "unavailable") throw error;
    await refuseStep(db, step.id, { code: errorCodeOf(error), message: error.message });
    return false;
  }
}

function fieldsOf(step: Revocation): ActFields<"revoked"> {
  const { target, serial } = step;
  const certificate = { act: step.certificateLeaf, serial, sha256: sha256Hex(step.certificate) };
  if (step.effect !== "final") return { target, certificate, effect: step.effect };
  const reason = REVOCATION_REASONS.find((one) => one === step.reason) ?? "unspecified";
  const { invalidity } = step;
  return { target, certificate, effect: "final", reason, ...(invalidity && { invalidity: invalidity.toISOString() }) };
}
