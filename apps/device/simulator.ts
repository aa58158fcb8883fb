import { setTimeout as sleep } from "node:timers/promises";
import type { SecureContext } from "node:tls";
import { LightSession, SessionEnded } from "./light-session.ts";
import { reading } from "./reading.ts";

export interface SimulatedDevice {
  readonly deviceId: string;
  /** its key and chain */
  readonly context: SecureContext;
}

export interface Simulation {
  readonly devices: readonly SimulatedDevice[];
  /** HOST:PORT */
  readonly hub: string;
  /** each device's */
  readonly messages: number;
  /** between a device's messages, milliseconds */
  readonly intervalMs: number;
  /** for each step of a device */
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  /** a device has come in, or hasn't */
  readonly onTried?: (tried: number) => void;
  readonly onPublished?: (published: number) => void;
}

export interface Spread {
  readonly p50: number;
  readonly p95: number;
}

export interface SimulationResult {
  readonly devices: number;
  readonly connected: number;
  /** devices that weren't let in, by what they saw of it */
  readonly refused: Readonly<Record<string, number>>;
  /** acknowledged, and so stored */
  readonly published: number;
  /** devices whose connection ended before they had said everything, by reason */
  readonly lost: Readonly<Record<string, number>>;
  /** milliseconds; null of nothing */
  readonly latency: { readonly connect: Spread | null; readonly publish: Spread | null };
  readonly seconds: number;
}

/** Handshakes under way at once. */
const AT_ONCE = 40;

/**
 * Many devices in one process: all connect, then all that came in say something now and then until each has said
 * everything. Refusals are outcomes, not errors; ends early, with what there is, when `signal` is aborted.
 */
export async function simulate(simulation: Simulation): Promise<SimulationResult> {
  const { devices, hub, messages, intervalMs, timeoutMs, signal, onTried, onPublished } = simulation;
  const began = performance.now();
  const refused: Record<string, number> = {};
  const lost: Record<string, number> = {};
  const connects: number[] = [];
  const publishes: number[] = [];
  const sessions: { deviceId: string; session: LightSession }[] = [];
  let tried = 0;
  const waiting = devices.values();
  const come = async (): Promise<void> => {
    for (const { deviceId, context } of waiting) {
      if (signal.aborted) return;
      const since = performance.now();
      try {
        sessions.push({ deviceId, session: await LightSession.open({ hub, context, deviceId, timeoutMs, signal }) });
        connects.push(performance.now() - since);
      } catch (error) {
        count(refused, error);
      }
      onTried?.(++tried);
    }
  };
  const talk = async (deviceId: string, session: LightSession): Promise<void> => {
    // Not all in the same moment
    if (intervalMs > 0) await sleep(Math.random() * intervalMs, undefined, { signal });
    for (let number = 1; number <= messages; number++) {
      const since = performance.now();
      await session.publish(JSON.stringify(reading(deviceId, number)));
      publishes.push(performance.now() - since);
      onPublished?.(publishes.length);
      if (number < messages && intervalMs > 0) await sleep(intervalMs, undefined, { signal });
    }
  };
  try {
    await Promise.all(Array.from({ length: AT_ONCE }, come));
    await Promise.all(
      sessions.map(({ deviceId, session }) =>
        talk(deviceId, session).catch((error: unknown) => {
          if (!signal.aborted) count(lost, error);
        }),
      ),
    );
  } finally {
    for (const { session } of sessions) session.close();
  }
  return {
    devices: devices.length,
    connected: sessions.length,
    refused,
    published: publishes.length,
    lost,
    latency: { connect: spreadOf(connects), publish: spreadOf(publishes) },
    seconds: (performance.now() - began) / 1000,
  };
}

function count(by: Record<string, number>, error: unknown): void {
  if (!(error instanceof SessionEnded) && !(error instanceof Error && error.name === "AbortError")) throw error;
  const reason = error instanceof SessionEnded ? error.reason : "interrupted";
  by[reason] = (by[reason] ?? 0) + 1;
}

function spreadOf(values: readonly number[]): Spread | null {
  if (values.length === 0) return null;
  const sorted = values.toSorted((a, b) => a - b);
  const at = (share: number): number => Math.round(10 * sorted[Math.ceil(share * sorted.length) - 1]!) / 10;
  return { p50: at(0.5), p95: at(0.95) };
}
