import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { auditWorld } from "../../../../test/support/audit-world.ts";
import { loadPage } from "../../../../test/support/chromium.ts";
import { PROJECT_ROOT, tempDir, tool } from "../../../../test/support/index.ts";
import { testWorld } from "../../../../test/support/world.ts";
import type { AuditReport } from "../ledgers.ts";
import { Timeline } from "../timeline.ts";
import { escapeHtml, visible } from "./escape.ts";
import { reportHtml } from "./html.ts";
import { actsPlot, sparkline } from "./plot.ts";

interface Judged {
  elements: string[];
  attributes: string[];
  policy: string[];
  rows: string[][];
  bars: number;
}

/** Python's XML parser, which forgives nothing. */
function judge(page: string): Judged {
  const script = join(PROJECT_ROOT, "test", "support", "judges", "page.py");
  const run = spawnSync(tool("python3"), [script], { input: page, encoding: "utf8" });
  if (run.status !== 0) throw new Error(run.stderr);
  return JSON.parse(run.stdout) as Judged;
}

const HOSTILE = [
  `<script>document.title = "taken"</script>`,
  `"><img src=x onerror=alert(1)>`,
  `' onmouseover='alert(1)`,
  `</style><style>body { display: none }</style>`,
  `]]>&amp;<!-- -->`,
  `dev-\u202egpj.exe`,
  `line\nfeed\u0000\u001b[31mred`,
];
const page = { title: HOSTILE[0]!, made: new Date("2026-11-22T12:00:00Z") };

describe("an audit's report as a page", () => {
  let good: AuditReport;
  let bad: AuditReport;
  beforeAll(async () => {
    const report = await auditWorld(await testWorld(3));
    good = report;
    bad = {
      ...report,
      ok: false,
      errors: 2000,
      open: HOSTILE.length,
      findings: HOSTILE.flatMap((text, index) => [
        { severity: "open" as const, code: "handoff-open" as const, party: text, subject: text, message: "open" },
        { severity: "error" as const, code: "act-invalid" as const, party: "p", index, subject: text, message: text },
      ]),
    };
  });

  it("is a page that stands by itself: nothing runs in it, nothing is loaded", () => {
    for (const report of [good, bad]) {
      const judged = judge(reportHtml(report, page));
      expect(judged.elements).not.toEqual(expect.arrayContaining(["script"]));
      for (const element of ["script", "img", "link", "iframe", "object", "a", "form", "foreignObject"]) {
        expect(judged.elements).not.toContain(element);
      }
      for (const name of judged.attributes) expect(name).not.toMatch(/^on|^style$|^src|^href|xlink/);
      expect(judged.policy).toHaveLength(1);
      expect(judged.policy[0]).toMatch(/^default-src 'none'; style-src 'sha256-[A-Za-z0-9+/=]{44}'; base-uri 'none'/);
      expect(judged.bars).toBeGreaterThan(0);
    }
  });

  it("shows every ledger, lot and finding, what is wrong first, and hostile names as they are", () => {
    const rows = judge(reportHtml(bad, page)).rows;
    for (const { id, size } of bad.parties)
      expect(rows.some((row) => row[0] === id && row[2] === String(size))).toBe(true);
    // slots, built, still there, on the way, not arrived, uncertified, certified, injected, installed
    expect(rows.find((row) => row[0] === "LOT-1")!.slice(2)).toEqual(["3", "3", "0", "0", "0", "0", "3", "3", "3"]);
    const findings = rows.filter((row) => row[0] === "wrong" || row[0] === "open");
    expect(findings).toHaveLength(2 * HOSTILE.length);
    expect(findings.map((row) => row[0])).toEqual([...HOSTILE.map(() => "wrong"), ...HOSTILE.map(() => "open")]);
    expect(findings.slice(0, HOSTILE.length).map((row) => row[3])).toEqual(HOSTILE.map(visible));
    const html = reportHtml(bad, page);
    expect(html).toContain("Not verified:");
    expect(html).toContain("1993 more are not listed");
    expect(reportHtml(good, page)).toContain("Verified:");
  });

  it("can be read in the light and in the dark", () => {
    const html = reportHtml(good, page);
    const palettes = [...html.matchAll(/:root \{[^}]*\}/g)].map(([rules]) => colours(rules));
    expect(palettes).toHaveLength(2);
    for (const palette of palettes) {
      const paper = palette.get("paper")!;
      for (const name of ["ink", "dim", "bad", "open", "good"]) {
        expect(contrast(palette.get(name)!, paper), name).toBeGreaterThan(4.5);
      }
      for (let i = 0; i < 6; i++) expect(contrast(palette.get(`s${i}`)!, paper), `s${i}`).toBeGreaterThan(3);
    }
  });

  it("loads in a browser as it was meant", async () => {
    const file = join(tempDir("report"), "audit.html");
    writeFileSync(file, reportHtml(bad, page));
    const { dom, complaints } = await loadPage(file);
    expect(complaints).toEqual([]);
    expect(dom).not.toContain("<title>taken");
    expect(dom).not.toMatch(/<script|<img|<style>body/);
    expect(dom.match(/<span class="bad">wrong<\/span>/g)).toHaveLength(HOSTILE.length);
    expect(dom).toContain("<svg");
  });

  function colours(rules: string): Map<string, string> {
    return new Map([...rules.matchAll(/--([a-z0-9]+): (#[0-9a-f]{3,6});/g)].map(([, name, value]) => [name!, value!]));
  }
  /** WCAG 2's contrast ratio. */
  function contrast(a: string, b: string): number {
    const [light, dark] = [luminance(a), luminance(b)].toSorted((x, y) => y - x);
    return (light! + 0.05) / (dark! + 0.05);
  }
  function luminance(colour: string): number {
    const hex = colour.length === 4 ? [...colour.slice(1)].map((c) => c + c).join("") : colour.slice(1);
    const [r, g, b] = [0, 2, 4].map((at) => {
      const value = Number.parseInt(hex.slice(at, at + 2), 16) / 255;
      return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r! + 0.7152 * g! + 0.0722 * b!;
  }
});

describe("escaping", () => {
  it("leaves no text that a parser could take for anything else", () => {
    const samples = fc.sample(fc.string({ unit: "binary", maxLength: 40 }), 300);
    const cells = samples.map((text) => `<tr><td>${escapeHtml(text)}</td><td title="${escapeHtml(text)}">x</td></tr>`);
    const judged = judge(`<!DOCTYPE html><html><table>${cells.join("")}</table></html>`);
    expect(judged.elements).toEqual(["html", "table", "td", "tr"]);
    expect(judged.rows.map((row) => row[0])).toEqual(samples.map(visible));
  });
});

describe("the plot", () => {
  it("counts every act once, however long the time, in bounded memory", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.constantFrom("a", "b"), fc.integer({ min: 0, max: 4e12 })), {
          minLength: 1,
          maxLength: 200,
        }),
        (events) => {
          const timeline = new Timeline();
          for (const [party, time] of events) timeline.add(party, time);
          const { from, step, acts } = timeline.report()!;
          const counts = Object.values(acts);
          expect(counts.flat().reduce((a, b) => a + b)).toBe(events.length);
          for (const { length } of counts) expect(length).toBeLessThanOrEqual(96);
          const times = events.map(([, time]) => time);
          expect(Date.parse(from)).toBeLessThanOrEqual(Math.min(...times));
          expect(Date.parse(from) + step * counts[0]!.length).toBeGreaterThan(Math.max(...times));
        },
      ),
    );
    expect(new Timeline().report()).toBeUndefined();
  });

  it("draws one bar for each party's acts in a stretch, and a line of text", () => {
    const timeline = { from: "2026-01-01T00:00:00.000Z", step: 1000, acts: { a: [1, 0, 4], b: [2, 0, 0] } };
    const svg = actsPlot(timeline, ["a", "b"]);
    expect(svg.match(/<rect/g)).toHaveLength(3);
    expect(svg).toContain("a: 4 from 2026-01-01T00:00:02Z");
    expect(sparkline([0, 1, 4], 4)).toBe("·▂▇");
  });
});
