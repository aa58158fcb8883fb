import { toBase64, utf8 } from "../../../domain/bytes.ts";
import { sha256 } from "../../../domain/hash.ts";
import type { Finding } from "../finding.ts";
import type { AuditReport } from "../ledgers.ts";
import { escapeHtml as text } from "./escape.ts";
import { actsPlot, duration, SERIES } from "./plot.ts";

const STYLE = `
:root { color-scheme: light dark; --ink: #1b1f24; --dim: #57606a; --paper: #fff; --line: #d0d7de; --bad: #b3261e; --open: #8a5a00; --good: #116329;
  --s0: #2f6fdb; --s1: #b3541e; --s2: #1f7a4d; --s3: #8b3fc7; --s4: #00778a; --s5: #a33b6b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --dim: #9aa4af; --paper: #0d1117; --line: #3d444d; --bad: #ff8a80; --open: #e3b341; --good: #56d364;
  --s0: #79a8ff; --s1: #f0a070; --s2: #6fd3a0; --s3: #cfa0ff; --s4: #5fd0e0; --s5: #f59ac0; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.verdict { font-size: 1.1rem; font-weight: 600; } .good { color: var(--good); } .bad { color: var(--bad); } .open { color: var(--open); } .dim { color: var(--dim); }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; } th, td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); }
td { overflow-wrap: break-word; max-width: 30rem; } td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; } td.n { white-space: nowrap; } code { font: .9em ui-monospace, monospace; overflow-wrap: anywhere; }
svg { width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; fill: var(--dim); } line.axis { stroke: var(--line); }
.legend { list-style: none; padding: 0; display: flex; gap: 1.2rem; flex-wrap: wrap; } .legend svg { width: .8rem; height: .8rem; }
${Array.from({ length: SERIES }, (_, i) => `.s${i} { fill: var(--s${i}); }`).join(" ")}
@media print { body { max-width: none; margin: 0; } }
`;

export interface ReportPage {
  readonly title: string;
  /** when the audit was made */
  readonly made: Date;
}

/**
 * The report as one page that stands by itself: no script, nothing loaded, readable with and without colours. Everything
 * in it that came from the ledgers is escaped. It is well-formed XML as well.
 */
export function reportHtml(report: AuditReport, { title, made }: ReportPage): string {
  const style = toBase64(sha256(utf8(STYLE)));
  const policy = `default-src 'none'; style-src 'sha256-${style}'; base-uri 'none'; form-action 'none'`;
  return `<!DOCTYPE html>
<html lang="en" xmlns="http://www.w3.org/1999/xhtml">
<head>
<meta charset="utf-8" />
<meta http-equiv="Content-Security-Policy" content="${text(policy)}" />
<meta name="viewport" content="width=device-width, initial-scale=1" />
<meta name="referrer" content="no-referrer" />
<meta name="color-scheme" content="light dark" />
<title>${text(title)}</title>
<style>${STYLE}</style>
</head>
<body>
<h1>${text(title)}</h1>
${verdict(report)}
<p class="dim">Audited <time datetime="${made.toISOString()}">${made.toISOString()}</time>, trusting the root with SHA-256
<code>${text(report.rootSha256)}</code> and the policy alone. ${quorum(report)}</p>
${plot(report)}
${parties(report)}
${lots(report)}
${findings(report)}
</body>
</html>
`;
}

function verdict({ ok, errors, open, devices }: AuditReport): string {
  const still = open > 0 ? ` <span class="open">${open} open</span>` : "";
  return ok
    ? `<p class="verdict"><span class="good">Verified:</span> ${devices} devices, nothing wrong.${still}</p>`
    : `<p class="verdict"><span class="bad">Not verified:</span> ${errors} ${errors === 1 ? "thing is" : "things are"} wrong.${still}</p>`;
}

function quorum(report: AuditReport): string {
  return report.quorum === "met"
    ? "Every ledger's checkpoint is cosigned by the quorum of witnesses that the policy asks for, where there is no finding to the contrary."
    : "The policy asks for no witnesses: that nobody was shown another version of a ledger isn't shown.";
}

function plot({ timeline, parties: list }: AuditReport): string {
  if (timeline === undefined) return "";
  const ids = list.map(({ id }) => id);
  const key = (id: string, i: number): string =>
    `<li><svg viewBox="0 0 10 10" aria-hidden="true" xmlns="http://www.w3.org/2000/svg"><rect class="s${i % SERIES}" width="10" height="10"></rect></svg> ${text(id)}</li>`;
  return `<h2>Acts over time</h2>
<p class="dim">By the times that the acts claim, ${text(duration(timeline.step))} a bar.</p>
${actsPlot(timeline, ids)}
<ul class="legend">${ids.map(key).join("")}</ul>`;
}

function parties({ parties: list }: AuditReport): string {
  const rows = list.map(({ id, origin, size, acts }) => {
    const types = Object.entries(acts).map(([type, count]) => `${count} ${type}`);
    return row([text(id), `<code>${text(origin)}</code>`, number(size), text(types.join(", "))], [2]);
  });
  return table("Ledgers", ["party", "log", "acts", "of which"], rows, [2]);
}

function lots({ lots: list }: AuditReport): string {
  const counts = [
    "slots",
    "built",
    "atBuilder",
    "onTheWay",
    "missing",
    "uncertified",
    "certified",
    "injected",
    "installed",
  ] as const;
  const names = [
    "slots",
    "built",
    "still there",
    "on the way",
    "not arrived",
    "uncertified",
    "certified",
    "injected",
    "installed",
  ];
  const right = counts.map((_, i) => i + 2);
  const rows = list.map((lot) =>
    row([text(lot.id), text(`${lot.builder} → ${lot.issuer}`), ...counts.map((name) => number(lot[name]))], right),
  );
  return table("Lots", ["lot", "builder → issuer", ...names], rows, right);
}

function findings({ findings: list, errors, open }: AuditReport): string {
  if (list.length === 0) return "<h2>Findings</h2>\n<p>None.</p>";
  const order = (finding: Finding): number => (finding.severity === "error" ? 0 : 1);
  const rows = list
    .toSorted((a, b) => order(a) - order(b))
    .map(({ severity, party, index, subject, code, message }) =>
      row(
        [
          severity === "error" ? '<span class="bad">wrong</span>' : '<span class="open">open</span>',
          text(party),
          index === undefined ? "" : number(index),
          text(subject ?? ""),
          text(message),
          `<code>${text(code)}</code>`,
        ],
        [2],
      ),
    );
  const unlisted = errors + open - list.length;
  const more =
    unlisted > 0 ? `\n<p>${unlisted} more are not listed: ${errors} are wrong, ${open} are open in all.</p>` : "";
  return table("Findings", ["", "party", "act", "about", "what", "code"], rows, [2]) + more;
}

const number = (value: number): string => String(value);

function table(title: string, heads: readonly string[], rows: readonly string[], right: readonly number[]): string {
  if (rows.length === 0) return "";
  const head = heads.map((name, i) => `<th scope="col"${right.includes(i) ? ' class="n"' : ""}>${text(name)}</th>`);
  return `<h2>${text(title)}</h2>
<div class="wide"><table>
<thead><tr>${head.join("")}</tr></thead>
<tbody>
${rows.join("\n")}
</tbody>
</table></div>`;
}

/** @param cells escaped already */
function row(cells: readonly string[], right: readonly number[]): string {
  return `<tr>${cells.map((cell, i) => `<td${right.includes(i) ? ' class="n"' : ""}>${cell}</td>`).join("")}</tr>`;
}
