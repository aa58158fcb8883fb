import { readdirSync, readFileSync } from "node:fs";

/** What processes cost, read from /proc: CPU of a process with everything below it, and its memory. Linux only. */

/** Kernel ticks are 10 ms on every Linux that Node runs on (USER_HZ). */
const MS_A_TICK = 10;

interface Stat {
  readonly pid: number;
  readonly parent: number;
  readonly ownMs: number;
  /** of children that ended and were waited for */
  readonly endedMs: number;
}

export interface Usage {
  readonly cpuMs: number;
  readonly pids: readonly number[];
}

/** A part of the stack, by the process at its top. */
export interface Part {
  readonly name: string;
  readonly pid: number;
}

/** Each part with all its descendants. */
export function usageOf(parts: readonly Part[]): Map<string, Usage> {
  const stats = allStats();
  const below = new Map<number, Stat[]>();
  for (const stat of stats.values()) {
    const siblings = below.get(stat.parent);
    if (siblings) siblings.push(stat);
    else below.set(stat.parent, [stat]);
  }
  return new Map(
    parts.map(({ name, pid }) => {
      let cpuMs = 0;
      const pids: number[] = [];
      const open = [stats.get(pid)];
      for (let stat = open.pop(); stat !== undefined; stat = open.pop()) {
        cpuMs += stat.ownMs + stat.endedMs;
        pids.push(stat.pid);
        open.push(...(below.get(stat.pid) ?? []));
      }
      return [name, { cpuMs, pids }];
    }),
  );
}

function allStats(): Map<number, Stat> {
  const stats = new Map<number, Stat>();
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    const stat = readStat(Number(entry));
    if (stat) stats.set(stat.pid, stat);
  }
  return stats;
}

function readStat(pid: number): Stat | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "latin1");
    // The name is in parentheses and may hold anything: fields are counted behind the last one.
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    const [user, system, endedUser, endedSystem] = fields.slice(11, 15).map(Number);
    return {
      pid,
      parent: Number(fields[1]),
      ownMs: (user! + system!) * MS_A_TICK,
      endedMs: (endedUser! + endedSystem!) * MS_A_TICK,
    };
  } catch {
    return undefined; // ended meanwhile
  }
}

/**
 * Bytes by part: proportional set size, so that what several processes share is counted once in their sum. Reading it
 * costs the kernel a walk over every mapping: not for a moment that is measured.
 */
export function memoryOf(parts: readonly Part[]): Map<string, number> {
  return new Map([...usageOf(parts)].map(([name, { pids }]) => [name, pids.reduce((sum, pid) => sum + pss(pid), 0)]));
}

function pss(pid: number): number {
  try {
    const line = /^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, "latin1"));
    if (line) return Number(line[1]) * 1024;
  } catch {
    // No permission, or an older kernel: resident memory then, with what is shared counted in each.
  }
  try {
    return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "latin1"))?.[1] ?? 0) * 1024;
  } catch {
    return 0;
  }
}

/** This process alone. */
export function ownCpuMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}
