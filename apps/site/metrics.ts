import type { TokenHealth } from "../../hsm/index.ts";
import type { SiteCounts } from "../../store/counts.ts";
import { ALERT_DAYS, alertOf, type Expiring } from "../../services/parties/expiring.ts";
import { exposition, gauge, processMetrics, single, type Metric } from "../http/metrics.ts";

/** What a site's metrics are made of. No secret, no device, no serial number. */
export interface MetricSources {
  /** each token of this process */
  readonly tokens: readonly TokenHealth[];
  /** of each issuing process its token's state, as it last reported */
  readonly processes: readonly { readonly load: number; readonly token: TokenHealth | undefined }[];
  /** undefined while the database doesn't answer */
  readonly counts: SiteCounts | undefined;
  /** what signing rests on, the first to end first; undefined while the database doesn't answer */
  readonly ends: readonly Expiring[] | undefined;
  readonly now: Date;
}

/** Prometheus' text exposition format, version 0.0.4. */
export function metricsText({ tokens, processes, counts, ends, now }: MetricSources): string {
  const all = [
    ...tokens.map((health) => ({ labels: { token: health.token, process: "site" }, health })),
    ...processes.flatMap(({ token }, i) =>
      token === undefined ? [] : [{ labels: { token: token.token, process: String(i + 1) }, health: token }],
    ),
  ];
  const each = (value: (health: TokenHealth) => number) =>
    all.map(({ labels, health }) => ({ labels, value: value(health) }));
  return exposition([
    gauge(
      "token_up",
      "1 while the token's circuit is closed.",
      each(({ circuit }) => (circuit === "closed" ? 1 : 0)),
    ),
    gauge(
      "token_failures",
      "Failures of the token since its last success.",
      each(({ failures }) => failures),
    ),
    gauge(
      "token_sessions",
      "Sessions of the token's pool.",
      each(({ sessions }) => sessions.size),
    ),
    gauge(
      "token_sessions_in_use",
      "Sessions that are at work.",
      each(({ sessions }) => sessions.inUse),
    ),
    gauge(
      "token_sessions_abandoned",
      "Sessions given up in a native call.",
      each(({ sessions }) => sessions.abandoned),
    ),
    gauge(
      "token_waiting",
      "Signatures that wait for a session.",
      each(({ sessions }) => sessions.waiting),
    ),
    gauge(
      "issuing_process_orders",
      "Orders that an issuing process has and hasn't answered.",
      processes.map(({ load }, i) => ({ labels: { process: String(i + 1) }, value: load })),
    ),
    single("database_up", "1 when the database answered for these metrics.", counts === undefined ? 0 : 1),
    ...(counts === undefined
      ? []
      : [
          single("ledger_size", "Leaves of this site's ledger.", counts.ledgerSize),
          single("ledger_checkpoint_size", "Leaves under the newest signed checkpoint.", counts.checkpointSize),
          single("ledger_pending_acts", "Acts that wait to be sequenced.", counts.pendingActs),
          gauge(
            "batches_pending",
            "Batches that aren't answered yet.",
            counts.pendingBatches.map(({ kind, count }) => ({ labels: { kind }, value: count })),
          ),
          single("outbox_queued", "Envelopes that aren't delivered yet.", counts.outboxQueued),
          single("inbox_unapplied", "Envelopes that have had no effect yet.", counts.inboxUnapplied),
        ]),
    ...(ends === undefined ? [] : expiryMetrics(ends, now)),
    ...processMetrics("the site's process, without its issuing processes"),
  ]);
}

/** As the log's alerts: 30, 14 and 7 days before something ends, and when it is over (0). */
function expiryMetrics(ends: readonly Expiring[], now: Date): Metric[] {
  const due = ends.map((one) => alertOf(one, now));
  // Of several of a name the first to end: a sample's labels come once.
  const first = new Map(ends.toReversed().map((one) => [`${one.what}/${one.subject}`, one]));
  return [
    gauge(
      "expiry_timestamp_seconds",
      "When a CA certificate, a grant or a CRL that this site's signing rests on ends.",
      [...first.values()].map(({ what, subject, notAfter }) => ({
        labels: { what, subject },
        value: Date.parse(notAfter) / 1000,
      })),
    ),
    gauge(
      "expiry_alerts",
      "How many of them end within so many days, by the alert that is due; 0: have ended.",
      [0, ...ALERT_DAYS].map((days) => ({
        labels: { days: String(days) },
        value: due.filter((one) => one === days).length,
      })),
    ),
  ];
}
