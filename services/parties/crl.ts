import type { CaKey } from "../../hsm/index.ts";
import { CountersignError, isCountersignError } from "../../lib/domain/errors.ts";
import { parseCertificate, type Certificate } from "../../lib/pki/certificate.ts";
import { parseCrl, type CrlEntryParams, type RevocationReason } from "../../lib/pki/crl.ts";
import { keyId } from "../../lib/pki/spki.ts";
import { wholeSeconds } from "../../lib/pki/time.ts";
import { currentCrl, type StoredCrl } from "../../store/authority.ts";
import type { Db } from "../../store/db.ts";
import {
  crlEntries,
  endlessCertificates,
  markPublished,
  noteEnds,
  unpublishedActs,
  type CrlRow,
} from "../../store/revocations.ts";
import { crlName, issueCrl, nextCrlNumber } from "./ca.ts";

/** How long an online CA's CRL holds; the site makes the next one when half of it is over. */
const CRL_DAYS = 30;
const DAY_MS = 86_400_000;
/** Read at a time, of those that were revoked before their ends were kept. */
const MOST_ENDS = 2000;
/** Each round meets a CRL that somebody else was making, or one that a crash left behind. */
const MAX_ROUNDS = 20;

/**
 * Makes the CA's next CRL when there is none, when half of the current one's time is over, or when it doesn't list what
 * is recorded as revoked or held. What it is to list is read anew for each number, after the CRL that it follows: of two
 * that run at once none takes back what the other one has published.
 * @param reviewed serial numbers: nothing is signed that doesn't list exactly these
 * @returns the CRL that lists everything recorded before the call
 * @throws CountersignError `state-conflict` when something else was reviewed
 */
export async function keepCrl(
  db: Db,
  key: CaKey,
  ca: Certificate,
  { now, days = CRL_DAYS, reviewed }: { now: Date; days?: number; reviewed?: ReadonlySet<string> },
): Promise<StoredCrl> {
  const caKeyId = keyId(ca.spki);
  for (let round = 0; round < MAX_ROUNDS; round++) {
    const recorded = await unpublishedActs(db, caKeyId);
    const held = await currentCrl(db, crlName(caKeyId));
    await readEnds(db, caKeyId);
    const rows = await crlEntries(db, caKeyId);
    // People decide about what they see: what they reviewed is signed, whole.
    const isOver = (row: CrlRow): boolean => reviewed === undefined && mayLeave(row, held, days, now);
    const revoked = rows.filter((row) => !isOver(row)).map((row) => entryOf(row, now));
    const over = rows.filter(isOver).map(({ serial }) => serial);
    if (reviewed !== undefined) assertReviewed(revoked, reviewed);
    if (held !== undefined && isFresh(held, now) && lists(held, revoked, over)) {
      await markPublished(db, recorded, held.number);
      return held;
    }
    // A clock that was put back must not leave the earlier one the newest.
    const date = held !== undefined && held.thisUpdate > now ? held.thisUpdate : now;
    await issueCrl(db, key, ca, { number: nextCrlNumber(held?.number, date), days, now: date, revoked });
  }
  throw new CountersignError("internal", "the CA's CRL doesn't come to list what is revoked");
}

function isFresh({ thisUpdate, nextUpdate }: StoredCrl, now: Date): boolean {
  return now.getTime() < (thisUpdate.getTime() + nextUpdate.getTime()) / 2;
}

function entryOf({ serial, effect, reason, invalidity, time }: CrlRow, now: Date): CrlEntryParams {
  return {
    serial,
    // The clock may have been put back since; nothing is revoked after the CRL's own date.
    revokedAt: wholeSeconds(time > now ? now : time),
    reason: effect === "hold" ? "certificateHold" : (reason as RevocationReason),
    invalidityDate: invalidity === null ? undefined : wholeSeconds(invalidity),
  };
}

/**
 * RFC 5280 section 3.3: an entry stays until it was on one regularly scheduled CRL issued after the certificate's end.
 * Within a CRL's whole time after that end there was one, and this one comes later still. By the clock of now as well: it may
 * have been ahead when the last CRL was made.
 */
function mayLeave({ notAfter, crlNumber }: CrlRow, held: StoredCrl | undefined, days: number, now: Date): boolean {
  if (held === undefined || notAfter === null || crlNumber === null) return false;
  return notAfter.getTime() + days * DAY_MS < Math.min(held.thisUpdate.getTime(), now.getTime());
}

async function readEnds(db: Db, caKeyId: string): Promise<void> {
  const ends = (await endlessCertificates(db, caKeyId, MOST_ENDS)).flatMap(({ id, certificate }) => {
    try {
      return [{ id, notAfter: parseCertificate(certificate).notAfter }];
    } catch (error) {
      if (!isCountersignError(error)) throw error;
      // A row that holds no certificate stays on the list.
      return [];
    }
  });
  if (ends.length > 0) await noteEnds(db, ends);
}

/** @param over what needn't be listed any more: it leaves with the next CRL, and is no reason to make one */
function lists({ der }: StoredCrl, wanted: readonly CrlEntryParams[], over: readonly string[]): boolean {
  const { revoked } = parseCrl(der);
  const leaving = over.filter((serial) => revoked.has(serial)).length;
  return (
    revoked.size === wanted.length + leaving &&
    wanted.every(({ serial, reason }) => revoked.get(serial)?.reason === reason)
  );
}

/** What is recorded is rows, which others may have written: where people decide, what they reviewed has the last word. */
function assertReviewed(revoked: readonly CrlEntryParams[], reviewed: ReadonlySet<string>): void {
  if (revoked.length === reviewed.size && revoked.every(({ serial }) => reviewed.has(serial))) return;
  const recorded = revoked.map(({ serial }) => serial).join(", ") || "nothing";
  throw new CountersignError(
    "state-conflict",
    `recorded as revoked are ${recorded}, reviewed were ${[...reviewed].join(", ") || "none"}: nothing was signed`,
  );
}
