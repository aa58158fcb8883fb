/** Prometheus' text exposition format, version 0.0.4. */

export interface Metric {
  readonly name: string;
  readonly help: string;
  readonly type: "gauge" | "counter";
  readonly samples: readonly { readonly labels?: Readonly<Record<string, string>>; readonly value: number }[];
}

export const gauge = (name: string, help: string, samples: Metric["samples"]): Metric => ({
  name: `countersign_${name}`,
  help,
  type: "gauge",
  samples,
});
/** One that only grows while the process runs. */
export const counter = (name: string, help: string, samples: Metric["samples"]): Metric => ({
  ...gauge(`${name}_total`, help, samples),
  type: "counter",
});
export const single = (name: string, help: string, value: number): Metric => gauge(name, help, [{ value }]);

/** @param whose for people: `the hub's process` */
export function processMetrics(whose: string): Metric[] {
  const { user, system } = process.cpuUsage();
  return [
    { ...single("", "Resident memory.", process.memoryUsage.rss()), name: "process_resident_memory_bytes" },
    {
      name: "process_cpu_seconds_total",
      help: `CPU time of ${whose}.`,
      type: "counter",
      samples: [{ value: (user + system) / 1e6 }],
    },
  ];
}

export function exposition(metrics: readonly Metric[]): string {
  return metrics.map(shown).join("");
}

function shown({ name, help, type, samples }: Metric): string {
  const lines = samples.map(({ labels, value }) => {
    const pairs = Object.entries(labels ?? {}).map(([label, text]) => `${label}="${quoted(text)}"`);
    return `${name}${pairs.length === 0 ? "" : `{${pairs.join(",")}}`} ${value}\n`;
  });
  return `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n${lines.join("")}`;
}

const quoted = (text: string): string => text.replace(/[\\"]/g, "\\$&").replaceAll("\n", "\\n");
