import type { LedgerBench } from "./ledger.ts";
import type { RecordCost, WritePhase } from "./ledger-process.ts";

/** The run as one table of strings, and what belongs under it. */
export function ledgerTable({ written, tessera }: LedgerBench): string[][] {
  const { batches, singles, apart } = written;
  const row = (name: string, phase: WritePhase, latency?: { p50: number; p99: number }): string[] => [
    name,
    whole(phase.to - phase.from),
    whole(phase.recordsPerSecond),
    ...(latency ? [whole(latency.p50), whole(latency.p99)] : ["", ""]),
    whole(ours(phase.cpu)),
    whole(phase.cpu.client),
    whole(phase.cpu.mainThread),
    whole(phase.cpu.otherThreads),
    whole(phase.cpu.postgres),
  ];
  const writers = whole(singles.writers);
  return [
    ["", "records", "records/s", "p50 ms", "p99 ms", "CPU us/record", "client's", "main thread", "threads", "Postgres"],
    ...batches.map((phase) => row(`batches, ${phase.from} to ${phase.to}`, phase)),
    row(`${writers} single writers`, singles, singles.latency),
    row(`${writers}, a transaction each`, apart, apart.latency),
    ...tessera.map((one) => [
      `tessera, ${one.writers} writers`,
      whole(one.entries),
      whole(one.entriesPerSecond),
      "",
      "",
      whole(one.cpuMicros),
    ]),
  ];
}

export function ledgerNotes({ cores, load, written, audit, tessera }: LedgerBench): string[] {
  const { batches, singles, proof } = written;
  const grown = batches.at(-1)!;
  const audits = (["tree", "acts"] as const).map((what) => {
    const { entries, seconds, cpuSeconds, maxRssBytes } = audit[what];
    return (
      `audit of ${entries} entries' ${what === "tree" ? "tree" : "tree and acts"}: ${seconds.toFixed(1)} s, ` +
      `${cpuSeconds.toFixed(1)} s of CPU (${whole((cpuSeconds * 1e6) / entries)} us an entry), ${megabytes(maxRssBytes)} at most`
    );
  });
  const { certificates } = audit;
  return [
    `cores ${cores}, load ${load[0].toFixed(1)} before and ${load[1].toFixed(1)} after`,
    `${written.entryBytes} bytes a record, ${written.checkpoints} signed checkpoints over the batches, the site's memory ${megabytes(written.maxRssBytes)} at most`,
    ...tessera.map((one, i) => {
      const own = i === 0 ? grown : singles;
      return (
        `${i === 0 ? "batches" : "single writers"} against tessera's ${one.writers}: ` +
        `${(own.recordsPerSecond / one.entriesPerSecond).toFixed(2)} times the records/s, ` +
        `${(ours(own.cpu) / one.cpuMicros).toFixed(1)} times the CPU a record`
      );
    }),
    `an inclusion proof, checkpoint and tiles read anew: p50 ${proof.p50.toFixed(1)} ms, p99 ${proof.p99.toFixed(1)} ms, most ${proof.most.toFixed(1)} ms of ${proof.proofs}`,
    ...audits,
    `certificates' signatures: ${whole(certificates.entries / certificates.seconds)}/s, ${whole((certificates.cpuSeconds * 1e6) / certificates.entries)} us of CPU each`,
    `export of ${written.size} entries: ${written.exportSeconds.toFixed(1)} s`,
  ];
}

/** Without the load generator. */
const ours = ({ mainThread, otherThreads, postgres }: RecordCost): number => mainThread + otherThreads + postgres;
const megabytes = (bytes: number): string => `${whole(bytes / 2 ** 20)} MB`;
const whole = (value: number): string => String(Math.round(value));
