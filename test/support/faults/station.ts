import { createHash } from "node:crypto";
import { SiteClient } from "../../../apps/cli/site-client.ts";
import { Station, type RunOptions, type StationResult } from "../../../apps/cli/station.ts";
import { parseCsr } from "../../../lib/pki/csr.ts";
import { pemDecode, pemEncode } from "../../../lib/pki/pem.ts";
import { makeCsr, throwawayKey, type ThrowawayKey } from "../issuing.ts";

/** One ready CSR, and every certificate that was ever given for it. */
export interface Asked {
  readonly deviceId: string;
  readonly pem: string;
  readonly spki: Uint8Array;
  /** SHA-256 of the DER of each distinct certificate, hex */
  readonly given: Map<string, Uint8Array>;
  /** as it was first given, leaf first */
  chain?: string | undefined;
  /** of some: they visit the hub */
  readonly keyPem?: string;
  answers: number;
}

/** @param visitors so many keep their key */
export function readyCsrs(count: number, prefix: string, visitors: number): Asked[] {
  return Array.from({ length: count }, (_, i) => {
    const deviceId = `${prefix}${String(i + 1).padStart(5, "0")}`;
    const key = throwawayKey();
    const der = makeCsr(key, { cn: deviceId });
    const { spki } = parseCsr(der);
    return {
      deviceId,
      pem: pemEncode("CERTIFICATE REQUEST", der),
      spki,
      given: new Map(),
      answers: 0,
      ...(i < visitors ? { keyPem: pemOf(key) } : {}),
    };
  });
}

const pemOf = ({ privateKey }: ThrowawayKey): string => String(privateKey.export({ type: "pkcs8", format: "pem" }));

const PATIENT: RunOptions = { patienceMs: 180_000, timeoutMs: 600_000 };

/** Two stations of one site, each on connections of its own; they note every answer they get. */
export class Line {
  readonly #stations: readonly Station[];
  readonly #clients: readonly SiteClient[];
  readonly #lot: string;
  inFlight = 0;
  batches = 0;

  private constructor(lot: string, clients: readonly SiteClient[], stations: readonly Station[]) {
    this.#lot = lot;
    this.#clients = clients;
    this.#stations = stations;
  }

  static async open(home: string, party: string, lot: string): Promise<Line> {
    const clients = await Promise.all([0, 1].map(() => SiteClient.open(party, { home, role: "station" })));
    return new Line(lot, clients, await Promise.all(clients.map((client) => Station.at(client))));
  }

  async build(csrs: readonly Asked[]): Promise<void> {
    const results = await this.#post((station) => station.build(this.#lot, pems(csrs), PATIENT));
    results.forEach((result, i) => refused(result, csrs[i]!));
  }

  /** @param which station */
  async certify(csrs: readonly Asked[], which: 0 | 1 = 0): Promise<void> {
    const results = await this.#post((station) => station.certify(this.#lot, pems(csrs), PATIENT), which);
    results.forEach((result, i) => {
      const asked = csrs[i]!;
      refused(result, asked);
      const [der] = pemDecode(result.chain ?? "", "CERTIFICATE");
      if (der === undefined) throw new Error(`${asked.deviceId}: an answer without a chain`);
      asked.given.set(createHash("sha256").update(der).digest("hex"), der);
      asked.chain ??= result.chain;
      asked.answers++;
    });
  }

  close(): void {
    for (const client of this.#clients) client.close();
  }

  async #post(
    run: (station: Station) => AsyncGenerator<StationResult>,
    which: 0 | 1 = 0,
  ): Promise<readonly StationResult[]> {
    this.inFlight++;
    this.batches++;
    try {
      const results: StationResult[] = [];
      for await (const result of run(this.#stations[which]!)) results.push(result);
      return results;
    } finally {
      this.inFlight--;
    }
  }
}

const pems = (csrs: readonly Asked[]): string[] => csrs.map((one) => one.pem);

function refused({ error }: StationResult, asked: Asked): void {
  if (error !== undefined) throw new Error(`${asked.deviceId} was refused: ${error.code}: ${error.message}`);
}
