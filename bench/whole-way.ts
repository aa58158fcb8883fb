import { buildChain } from "../apps/cli/scenario/chain.ts";
import { SiteClient } from "../apps/cli/site-client.ts";
import { Station, type StationResult } from "../apps/cli/station.ts";
import type { Stack } from "../apps/site/stack/stack.ts";
import { CountersignError } from "../lib/domain/errors.ts";
import { deviceIds, makeCsrs } from "./csrs.ts";
import { latencyOf, type Latency } from "./statistics.ts";
import { memoryOf, ownCpuMs, usageOf, type Part, type Usage } from "./usage.ts";

/**
 * The whole way of a lot over the running stack: gateway with mutual TLS, Temporal, intents, HSM, Postgres, ledger, signed
 * checkpoint. Everything that the product does for a device is in it, and nothing is turned off.
 */

const BATCH = 256;
/** Batches that the station has under way. */
const PARALLEL = 8;
/** Stations that hand in one CSR a request, as a peer's clients do; and how many devices they have. */
const HANDS = 32;
export const BY_HAND = "certify, one CSR a request";
const MOST_BY_HAND = 320;
/** Devices that go the whole way unmeasured first: compiled code, open connections, prepared statements. */
const WARM_UP = 1024;
const GIVER = "factory-y";
const TAKER = "technician-z";

export interface Phase {
  readonly name: string;
  readonly devices: number;
  readonly seconds: number;
  readonly devicesPerSecond: number;
  /** ms from posting a device's batch until its answer */
  readonly latency?: Latency;
  /** microseconds a device: every process of the stack, and the load generator apart */
  readonly cpuMicros: number;
  readonly clientCpuMicros: number;
  /** microseconds a device, by part */
  readonly parts: Readonly<Record<string, number>>;
}

/** How one part of the certifying went, in the order in which devices were answered. */
export interface Slice {
  readonly from: number;
  readonly to: number;
  readonly devicesPerSecond: number;
  readonly cpuMicros: number;
  /** of it, by part: what grows with the tables shows in Postgres first, a burst of one process in its own */
  readonly parts: Readonly<Record<string, number>>;
}

export interface WholeWay {
  readonly phases: readonly Phase[];
  readonly growth: readonly Slice[];
  /** one CSR by itself, nothing else under way: ms */
  readonly single: Latency;
  /** bytes, after the run */
  readonly memory: Readonly<Record<string, number>>;
}

export interface WholeWayOptions {
  readonly devices: number;
  /** single CSRs after it; default 60 */
  readonly singles?: number;
  readonly onStep: (what: string) => void;
}

export function partsOf({ info }: Stack): Part[] {
  return [
    ...info.sites.map((site) => ({ name: site.id, pid: site.pid })),
    ...(info.postgres.pid === null ? [] : [{ name: "postgres", pid: info.postgres.pid }]),
    ...info.sites.map((site) => ({ name: `temporal ${site.id}`, pid: site.temporal.pid })),
    { name: "hub", pid: info.hub.pid },
  ];
}

export async function wholeWay(stack: Stack, home: string, options: WholeWayOptions): Promise<WholeWay> {
  const { devices, onStep } = options;
  const singles = options.singles ?? 60;
  const byHand = Math.min(devices, MOST_BY_HAND);
  const all = devices + byHand + singles;
  const lot = "lot-bench";
  await buildChain(home, { idPrefixes: ["dev-"], quota: 4 * (WARM_UP + all) });
  onStep(`${WARM_UP + all} CSRs`);
  const warm = makeCsrs(deviceIds("dev-w", WARM_UP));
  const csrs = makeCsrs(deviceIds("dev-b", all));

  const opened: SiteClient[] = [];
  const open = async (party: string, role?: "station"): Promise<SiteClient> => {
    const client = await SiteClient.open(party, { home, ...(role === undefined ? {} : { role }) });
    opened.push(client);
    return client;
  };
  try {
    const [y, z] = [await open(GIVER), await open(TAKER)];
    const [yStation, zStation] = [
      await Station.at(await open(GIVER, "station")),
      await Station.at(await open(TAKER, "station")),
    ];
    const meter = new Meter(partsOf(stack));
    onStep(`warm-up, ${WARM_UP} devices`);
    await openLot(y, "lot-warm", warm.length);
    await drive(warm, (some) => yStation.build("lot-warm", some));
    await handOver(y, z, "lot-warm");
    await drive(warm, (some) => zStation.certify("lot-warm", some));

    await openLot(y, lot, csrs.length);
    onStep("built");
    const built = await meter.phase("built", csrs.length, () => drive(csrs, (some) => yStation.build(lot, some)));
    onStep("handoff");
    const handoff = await meter.phase("handoff", csrs.length, async () => {
      await handOver(y, z, lot);
      return undefined;
    });
    onStep("certify");
    const many = csrs.slice(0, devices);
    const growth = new Growth(meter);
    const certified = await meter.phase("certify", devices, () =>
      drive(
        many,
        (some) => zStation.certify(lot, some),
        (n) => growth.add(n),
      ),
    );
    onStep("one CSR a request");
    const hands = await meter.phase(BY_HAND, byHand, () =>
      drive(csrs.slice(devices, devices + byHand), (some) => zStation.certify(lot, some), undefined, {
        batch: 1,
        parallel: HANDS,
      }),
    );
    onStep("one CSR at a time");
    const single: number[] = [];
    for (const csr of csrs.slice(devices + byHand)) {
      const since = performance.now();
      await collect(zStation.certify(lot, [csr]));
      single.push(performance.now() - since);
    }
    const memory = Object.fromEntries(memoryOf(partsOf(stack)));
    return {
      phases: [built, handoff, certified, hands],
      growth: growth.slices(),
      // The first ones warm connections and code.
      single: latencyOf(single.slice(Math.min(10, single.length >> 1))),
      memory,
    };
  } finally {
    for (const client of opened) client.close();
  }
}

/** Batches from several hands, each waiting for its answer before the next. Gives one latency a device. */
async function drive(
  csrs: readonly string[],
  ask: (some: readonly string[]) => AsyncIterable<StationResult>,
  done: (devices: number) => void = () => undefined,
  { batch, parallel } = { batch: BATCH, parallel: PARALLEL },
): Promise<number[]> {
  const latencies: number[] = [];
  let next = 0;
  const hand = async (): Promise<void> => {
    while (next < csrs.length) {
      const some = csrs.slice(next, (next += batch));
      const since = performance.now();
      await collect(ask(some));
      const took = performance.now() - since;
      for (const _ of some) latencies.push(took);
      done(some.length);
    }
  };
  await Promise.all(Array.from({ length: parallel }, hand));
  return latencies;
}

/** @throws CountersignError when a single item was refused: a benchmark of refusals measures nothing */
async function collect(results: AsyncIterable<StationResult>): Promise<void> {
  for await (const { error } of results) {
    if (error !== undefined) throw new CountersignError(error.code, `a device was refused: ${error.message}`);
  }
}

async function openLot(y: SiteClient, id: string, slots: number): Promise<void> {
  const layouts = [{ format: "esp-secure-cert", template: "esp-secure-cert.bin" }];
  await y.post("/api/v1/lots", { id, slots, issuer: TAKER, profile: "ldevid", layouts });
}

async function handOver(y: SiteClient, z: SiteClient, lot: string): Promise<void> {
  const { id } = await y.post<{ id: string }>(`/api/v1/lots/${lot}/handoffs`, { to: z.party });
  const until = Date.now() + 600_000;
  for (;;) {
    const state = await z.get<{ state: string }>(`/api/v1/handoffs/${id}`).catch(() => undefined);
    if (state !== undefined && state.state !== "released" && state.state !== "offered") break;
    if (Date.now() > until) throw new CountersignError("timeout", `handoff ${id} hasn't reached ${z.party}`);
    await new Promise((wake) => setTimeout(wake, 50));
  }
  await z.post(`/api/v1/handoffs/${id}/receive`, { discrepancies: [] });
  const arrived = ({ state }: { state: string }): boolean => state === "received" || state === "closed";
  await y.poll(`/api/v1/handoffs/${id}`, arrived, { timeoutMs: 600_000, everyMs: 50, what: "the handoff's receipt" });
}

class Meter {
  readonly #parts: readonly Part[];

  constructor(parts: readonly Part[]) {
    this.#parts = parts;
  }

  usage(): Map<string, Usage> {
    return usageOf(this.#parts);
  }

  async phase(name: string, devices: number, work: () => Promise<number[] | undefined>): Promise<Phase> {
    const before = this.usage();
    const own = ownCpuMs();
    const since = performance.now();
    const latencies = await work();
    const seconds = (performance.now() - since) / 1000;
    const clientCpuMicros = ((ownCpuMs() - own) * 1000) / devices;
    const cpu = microsADevice(before, this.usage(), devices);
    return {
      name,
      devices,
      seconds,
      devicesPerSecond: devices / seconds,
      ...(latencies === undefined ? {} : { latency: latencyOf(latencies) }),
      ...cpu,
      clientCpuMicros,
    };
  }
}

function microsADevice(
  before: ReadonlyMap<string, Usage>,
  after: ReadonlyMap<string, Usage>,
  devices: number,
): Pick<Phase, "cpuMicros" | "parts"> {
  const parts: Record<string, number> = {};
  let cpuMicros = 0;
  for (const [part, { cpuMs }] of after) {
    cpuMicros += parts[part] = ((cpuMs - (before.get(part)?.cpuMs ?? 0)) * 1000) / devices;
  }
  return { cpuMicros, parts };
}

const SLICES = 4;

/**
 * Marks as devices are answered, cut into slices afterwards. The first and the last batches are left out: while the hands
 * fill up and run dry, what is worked on isn't what is answered.
 */
class Growth {
  readonly #meter: Meter;
  readonly #marks: { devices: number; at: number; usage: Map<string, Usage> }[] = [];
  #devices = 0;

  constructor(meter: Meter) {
    this.#meter = meter;
  }

  add(devices: number): void {
    this.#devices += devices;
    this.#marks.push({ devices: this.#devices, at: performance.now(), usage: this.#meter.usage() });
  }

  slices(): Slice[] {
    const steady = this.#marks.slice(PARALLEL - 1, -PARALLEL);
    const cuts = Array.from({ length: SLICES + 1 }, (_, i) => steady[Math.floor((i * (steady.length - 1)) / SLICES)]);
    return cuts.slice(1).flatMap((end, i) => {
      const start = cuts[i];
      if (start === undefined || end === undefined || end.devices === start.devices) return [];
      const devices = end.devices - start.devices;
      return [
        {
          from: start.devices,
          to: end.devices,
          devicesPerSecond: (devices * 1000) / (end.at - start.at),
          ...microsADevice(start.usage, end.usage, devices),
        },
      ];
    });
  }
}
