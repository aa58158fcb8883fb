import type { ErrorCode } from "../../lib/domain/error-codes.ts";
import { CountersignError, isCountersignError } from "../../lib/domain/errors.ts";
import { toBase64 } from "../../lib/domain/bytes.ts";
import { pemDecode } from "../../lib/pki/pem.ts";
import type { SiteClient } from "./site-client.ts";
import { csrManifest, installManifest, stationKeyOf, type Installation, type StationKey } from "./station-key.ts";

/** One item's answer, as the gateway gives it. */
export interface StationResult {
  readonly deviceId?: string;
  readonly slot?: number;
  /** PEM, leaf first, without the root; of a certify batch */
  readonly chain?: string;
  readonly error?: { readonly code: ErrorCode; readonly message: string };
}

interface BatchAnswer {
  readonly batch: string;
  readonly state: "pending" | "done";
  readonly results: readonly (StationResult & { readonly index: number })[];
}

export interface RunOptions {
  /** batches on their way at once; default 8 */
  readonly parallel?: number;
  /** how long one batch may take; default 15 minutes */
  readonly timeoutMs?: number;
  /** how long a gateway out of reach is asked again, each time; default 12 s */
  readonly patienceMs?: number;
  /** called with the number of items answered so far */
  readonly onProgress?: (done: number) => void;
}

const BATCH = 256;
const WAIT_SECONDS = 20;
const TIMEOUT_MS = 15 * 60_000;
const PATIENCE_MS = 12_000;
const LONGEST_PAUSE_MS = 3_000;

/** A station on the line: hands CSRs in by signed batches, many at once, and gets its answers in the order it asked. */
export class Station {
  readonly client: SiteClient;
  readonly #key: StationKey;

  constructor(client: SiteClient, key: StationKey) {
    this.client = client;
    this.#key = key;
  }

  /** @throws CountersignError `usage`, `component-missing` */
  static async at(client: SiteClient): Promise<Station> {
    return new Station(client, await stationKeyOf(client));
  }

  /** Records devices as built; one result an item, in order. @param csrs PEM */
  build(lot: string, csrs: AsyncOrSync<string>, options?: RunOptions): AsyncGenerator<StationResult> {
    return this.#run(csrs, options, (some) => this.#csrBatch(lot, "built", some, options));
  }

  /** Asks for certificates; one result an item, in order. @param csrs PEM */
  certify(lot: string, csrs: AsyncOrSync<string>, options?: RunOptions): AsyncGenerator<StationResult> {
    return this.#run(csrs, options, (some) => this.#csrBatch(lot, "certify", some, options));
  }

  /** Builds and certifies in one go, on a site that does both: what wasn't built isn't certified. */
  sign(lot: string, csrs: AsyncOrSync<string>, options?: RunOptions): AsyncGenerator<StationResult> {
    return this.#run(csrs, options, async (some) => {
      const built = await this.#csrBatch(lot, "built", some, options);
      const good = some.filter((_, i) => built[i]!.error === undefined);
      const certified = (await this.#csrBatch(lot, "certify", good, options)).values();
      return built.map((result) => (result.error === undefined ? certified.next().value! : result));
    });
  }

  /** Records installations; the station's key is a technician's. */
  install(lot: string, installations: AsyncOrSync<Installation>, options?: RunOptions): AsyncGenerator<StationResult> {
    return this.#run(installations, options, async (some) => {
      const { manifest, items } = await installManifest(this.#key, lot, some);
      return await this.#post(`/api/v1/lots/${encodeURIComponent(lot)}/installations`, manifest, items, options);
    });
  }

  async *#run<T>(
    items: AsyncOrSync<T>,
    options: RunOptions = {},
    work: (some: readonly T[]) => Promise<StationResult[]>,
  ): AsyncGenerator<StationResult> {
    const running: Promise<StationResult[]>[] = [];
    let done = 0;
    const begin = (some: readonly T[]): void => {
      const result = work(some);
      // Looked at in order below; until then a failure isn't an unhandled one.
      result.catch(() => undefined);
      result.then(
        () => options.onProgress?.((done += some.length)),
        () => undefined,
      );
      running.push(result);
    };
    let part: T[] = [];
    for await (const item of items) {
      part.push(item);
      if (part.length < BATCH) continue;
      begin(part);
      part = [];
      while (running.length >= (options.parallel ?? 8)) yield* await running.shift()!;
    }
    if (part.length > 0) begin(part);
    for (const result of running) yield* await result;
  }

  async #csrBatch(
    lot: string,
    kind: "built" | "certify",
    csrs: readonly string[],
    options?: RunOptions,
  ): Promise<StationResult[]> {
    const results: StationResult[] = [];
    const good: { index: number; pem: string; der: Uint8Array }[] = [];
    csrs.forEach((pem, index) => {
      try {
        good.push({ index, pem, der: decodeCsr(pem) });
      } catch (error) {
        if (!isCountersignError(error)) throw error;
        results[index] = { error: { code: error.code, message: error.message } };
      }
    });
    if (good.length === 0) return results;
    const manifest = await csrManifest(
      this.#key,
      kind,
      lot,
      good.map(({ der }) => der),
    );
    const answers = await this.#post(
      `/api/v1/lots/${encodeURIComponent(lot)}/batches`,
      manifest,
      good.map(({ pem }) => ({ csr: pem })),
      options,
    );
    good.forEach(({ index }, i) => (results[index] = answers[i]!));
    return results;
  }

  async #post(
    path: string,
    manifest: Uint8Array,
    items: readonly unknown[],
    options: RunOptions = {},
  ): Promise<StationResult[]> {
    const lines = [{ manifest: toBase64(manifest) }, ...items];
    // The same manifest again is the same batch: asking twice can't do anything twice.
    const { batch } = await patiently(() => this.client.postNdjson<{ batch: string }>(path, lines), options);
    const deadline = Date.now() + (options.timeoutMs ?? TIMEOUT_MS);
    for (;;) {
      const view = `/api/v1/batches/${batch}?wait=${WAIT_SECONDS}`;
      const answer = await patiently(() => this.client.get<BatchAnswer>(view), options);
      if (answer.state === "done") {
        const results: StationResult[] = [];
        for (const { index, ...result } of answer.results) results[index] = result;
        return results;
      }
      if (Date.now() > deadline) {
        throw new CountersignError(
          "timeout",
          `batch ${batch} at ${this.client.party} isn't done yet; post it again later`,
        );
      }
    }
  }
}

/**
 * Asks again while the gateway, or what it stands on, is out of reach, and as long as a batch may take while its queue is
 * full. What is asked must be safe to ask twice.
 */
async function patiently<T>(ask: () => Promise<T>, options: RunOptions): Promise<T> {
  const { patienceMs = PATIENCE_MS, timeoutMs = TIMEOUT_MS } = options;
  const last = Date.now() + timeoutMs;
  let deadline = Date.now() + patienceMs;
  for (let pause = 200; ; pause = Math.min(2 * pause, LONGEST_PAUSE_MS)) {
    try {
      return await ask();
    } catch (error) {
      const seconds = isCountersignError(error) && error.code === "queue-full" && error.details["retryAfterSeconds"];
      if (typeof seconds === "number") {
        const until = Date.now() + seconds * 1000;
        if (until > last) throw error;
        // Not all at the same moment again.
        await new Promise((wake) => setTimeout(wake, seconds * 1000 * (1 + Math.random() / 4)));
        deadline = Date.now() + patienceMs;
        continue;
      }
      const again = isCountersignError(error) && error.kind === "unavailable" && Date.now() + pause < deadline;
      if (!again) throw error;
      await new Promise((wake) => setTimeout(wake, pause));
    }
  }
}

/** Hands in all of these and gives their answers, in order. @param work.csrs PEM */
export async function postCsrs(
  client: SiteClient,
  work: { lot: string; kind: "built" | "certify"; csrs: readonly string[] } & RunOptions,
): Promise<StationResult[]> {
  const station = await Station.at(client);
  const run =
    work.kind === "built" ? station.build(work.lot, work.csrs, work) : station.certify(work.lot, work.csrs, work);
  return await all(run);
}

/** Records installations at one place, now. The client is a technician's. */
export async function postInstallations(
  client: SiteClient,
  work: { lot: string; deviceIds: readonly string[]; place: unknown } & RunOptions,
): Promise<StationResult[]> {
  const station = await Station.at(client);
  const time = new Date().toISOString();
  const installations = work.deviceIds.map((deviceId) => ({ deviceId, place: work.place, time }));
  return await all(station.install(work.lot, installations, work));
}

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const item of items) list.push(item);
  return list;
}

export type { StationResult as CsrResult };
export type AsyncOrSync<T> = AsyncIterable<T> | Iterable<T>;

function decodeCsr(pem: string): Uint8Array {
  if (pem.length > 32 * 1024) throw new CountersignError("input-too-large", "a CSR has at most 32 KiB of PEM");
  const blocks = pemDecode(pem, "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST");
  if (blocks.length !== 1) throw new CountersignError("pem-invalid", `${blocks.length} CSRs where one belongs`);
  return blocks[0]!;
}
