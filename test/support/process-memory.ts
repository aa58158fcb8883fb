import { closeSync, openSync, readFileSync, readSync, readdirSync } from "node:fs";

/** What a running process holds: its environment, its arguments, and the memory it has written to. Linux only. */

const STEP = 4 << 20;
/** Longer than any secret looked for, in either encoding. */
const OVERLAP = 512;

/** Those of the secrets that process `pid` holds; none when it has ended meanwhile. */
export function processHolds(pid: number, secrets: readonly string[]): string[] {
  // JavaScript keeps such a text in one byte a character, or two; C keeps it in one.
  const needles = secrets.flatMap((secret) =>
    (["latin1", "utf16le"] as const).map((encoding) => ({ secret, bytes: Buffer.from(secret, encoding) })),
  );
  const found = new Set<string>();
  const look = (bytes: Buffer): void => {
    for (const needle of needles) if (bytes.includes(needle.bytes)) found.add(needle.secret);
  };
  try {
    for (const file of ["environ", "cmdline"]) look(readFileSync(`/proc/${pid}/${file}`));
    const memory = openSync(`/proc/${pid}/mem`, "r");
    try {
      for (const [start, end] of writtenRegions(pid)) readRegion(memory, start, end, look);
    } finally {
      closeSync(memory);
    }
  } catch (error) {
    if (!["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
  }
  return [...found];
}

/** Addresses of the regions with pages of the process's own making: heaps, stacks, changed data. */
function writtenRegions(pid: number): [number, number][] {
  const regions: [number, number][] = [];
  let current: [number, number] | undefined;
  for (const line of readFileSync(`/proc/${pid}/smaps`, "utf8").split("\n")) {
    const header = /^([0-9a-f]+)-([0-9a-f]+) r/.exec(line);
    if (header) current = [Number.parseInt(header[1]!, 16), Number.parseInt(header[2]!, 16)];
    else if (/^[0-9a-f]+-[0-9a-f]+ /.test(line)) current = undefined;
    else if (current && /^(?:Anonymous|Swap):\s+[1-9]/.test(line)) {
      regions.push(current);
      current = undefined;
    }
  }
  return regions;
}

const chunk = Buffer.alloc(STEP + OVERLAP);

function readRegion(memory: number, start: number, end: number, look: (bytes: Buffer) => void): void {
  for (let at = start; at < end; at += STEP) {
    try {
      const length = readSync(memory, chunk, 0, Math.min(chunk.length, end - at), at);
      look(chunk.subarray(0, length));
    } catch {
      // Unmapped meanwhile.
    }
  }
}

/** Command line of every process below `pid`, that one left out. */
export function descendants(pid = process.pid): Map<number, string> {
  const parents = new Map<number, number>();
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const stat = readFileSync(`/proc/${name}/stat`, "utf8");
      parents.set(Number(name), Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]));
    } catch {
      // Ended meanwhile.
    }
  }
  const below = (one: number): boolean => {
    for (let at = parents.get(one); at !== undefined && at > 1; at = parents.get(at)) if (at === pid) return true;
    return false;
  };
  const found = new Map<number, string>();
  for (const one of parents.keys()) {
    if (!below(one)) continue;
    try {
      found.set(one, readFileSync(`/proc/${one}/cmdline`, "utf8").replaceAll("\0", " "));
    } catch {
      // Ended meanwhile.
    }
  }
  return found;
}
