import { paint } from "./output.ts";

/** Long work, shown as a bar on a terminal and as a few plain lines elsewhere. */
export interface Progress {
  update(done: number): void;
  finish(detail?: string): void;
}

const BAR_WIDTH = 28;

export function startProgress(title: string, total: number): Progress {
  const started = performance.now();
  const terminal = process.stderr.isTTY;
  let lastShown = 0;
  if (!terminal) process.stderr.write(`${title}${total > 1 ? ` (${total})` : ""} ...\n`);

  const draw = (done: number): void => {
    const share = total === 0 ? 1 : Math.min(1, done / total);
    const filled = Math.round(share * BAR_WIDTH);
    const count = total > 1 ? ` ${done}/${total}` : "";
    process.stderr.write(`\r\u001b[2K${title} ${"█".repeat(filled)}${"░".repeat(BAR_WIDTH - filled)}${count}`);
  };
  if (terminal) draw(0);

  return {
    update(done) {
      const now = performance.now();
      if (!terminal || now - lastShown < 80) return;
      lastShown = now;
      draw(done);
    },
    finish(detail = "") {
      const seconds = ((performance.now() - started) / 1000).toFixed(1);
      const line = `${paint("green", "✓")} ${title}${detail ? `: ${detail}` : ""} ${paint("dim", `${seconds} s`)}\n`;
      process.stderr.write(
        terminal ? `\r\u001b[2K${line}` : `  done: ${title}${detail ? `: ${detail}` : ""} (${seconds} s)\n`,
      );
    },
  };
}

/** Runs one step and shows it; the step gives the words for its result. */
export async function step<T>(title: string, work: () => Promise<T>, describe?: (result: T) => string): Promise<T> {
  const progress = startProgress(title, 1);
  const result = await work();
  progress.finish(describe?.(result));
  return result;
}
