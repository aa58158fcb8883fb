import type { TimelineReport } from "../timeline.ts";
import { escapeHtml } from "./escape.ts";

/** The plot's colours repeat after so many parties. */
export const SERIES = 6;

const WIDTH = 720;
const HEIGHT = 190;
const LEFT = 44;
const BOTTOM = 24;
const TOP = 10;

/**
 * Acts over time as one inline SVG: a bar for each stretch of time, each party's share of it in its own colour. Colours
 * and type come from the page's style sheet (`.s0` and on, `.axis`).
 * @param parties in the order of their colours
 */
export function actsPlot({ from, step, acts }: TimelineReport, parties: readonly string[]): string {
  const stretches = Math.max(...Object.values(acts).map((counts) => counts.length));
  const totals = Array.from({ length: stretches }, (_, i) => parties.reduce((sum, p) => sum + (acts[p]?.[i] ?? 0), 0));
  const most = Math.max(1, ...totals);
  const inner = { width: WIDTH - LEFT, height: HEIGHT - TOP - BOTTOM };
  const width = inner.width / stretches;
  const begin = Date.parse(from);
  const time = (i: number): string => `${new Date(begin + i * step).toISOString().slice(0, 19)}Z`;
  const bars: string[] = [];
  for (let i = 0; i < stretches; i++) {
    let y = TOP + inner.height;
    parties.forEach((party, series) => {
      const count = acts[party]?.[i] ?? 0;
      if (count === 0) return;
      const height = (inner.height * count) / most;
      y -= height;
      const box = `x="${fixed(LEFT + i * width)}" y="${fixed(y)}" width="${fixed(Math.max(width - 0.5, 0.8))}" height="${fixed(height)}"`;
      const title = escapeHtml(`${party}: ${count} from ${time(i)}`);
      bars.push(`<rect class="s${series % SERIES}" ${box}><title>${title}</title></rect>`);
    });
  }
  const base = TOP + inner.height;
  return [
    `<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-labelledby="plot-title" xmlns="http://www.w3.org/2000/svg">`,
    `<title id="plot-title">Acts over time, ${escapeHtml(duration(step))} a bar</title>`,
    `<line class="axis" x1="${LEFT}" y1="${base}" x2="${WIDTH}" y2="${base}"></line>`,
    `<line class="axis" x1="${LEFT}" y1="${TOP}" x2="${LEFT}" y2="${base}"></line>`,
    `<text class="axis" x="${LEFT - 6}" y="${TOP + 10}" text-anchor="end">${most}</text>`,
    `<text class="axis" x="${LEFT - 6}" y="${base}" text-anchor="end">0</text>`,
    `<text class="axis" x="${LEFT}" y="${HEIGHT - 6}">${time(0)}</text>`,
    `<text class="axis" x="${WIDTH}" y="${HEIGHT - 6}" text-anchor="end">${time(stretches)}</text>`,
    ...bars,
    "</svg>",
  ].join("\n");
}

const fixed = (value: number): string => String(Math.round(value * 100) / 100);

/** `2 s`, `17 min`, `4.6 h`, `12 days` */
export function duration(ms: number): string {
  const seconds = ms / 1000;
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.round(seconds / 360) / 10} h`;
  return `${Math.round(seconds / 86_400)} days`;
}

const LEVELS = "▁▂▃▄▅▆▇█";

/** The same for a terminal: one character a stretch. */
export function sparkline(counts: readonly number[], most: number): string {
  const level = (count: number): string =>
    count === 0 ? "·" : LEVELS[Math.min(LEVELS.length - 1, Math.floor((count * LEVELS.length) / (most + 1)))]!;
  return counts.map(level).join("");
}
