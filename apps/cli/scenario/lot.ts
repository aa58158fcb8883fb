import { basename } from "node:path";
import { setTimeout as pause } from "node:timers/promises";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { readMachine } from "../../site/stack/machine.ts";
import { IMAGE_LAYOUTS } from "../../../lib/firmware/layouts.ts";
import type { Receipt } from "../../../lib/records/receipt.ts";
import { startProgress, step } from "../progress.ts";
import { SiteClient } from "../site-client.ts";
import { postCsrs, postInstallations, type CsrResult } from "../station.ts";

/** One production run of the example: built at Factory-Y, handed over, certified, injected and installed by Technician-Z. */

export interface LotDevice {
  readonly deviceId: string;
  readonly slot: number;
  readonly csr: string;
  readonly chain: string | null;
  readonly receipt: Receipt | null;
  readonly imagePath: string | null;
}

export interface LotResult {
  readonly lot: string;
  readonly refused: readonly { index: number; code: string; message: string }[];
  /** from the first CSR batch posted to the issuer until the last certificate was released */
  readonly signingSeconds: number;
  readonly certified: number;
}

const ESP_TEMPLATE = "esp-secure-cert.bin";

export async function nextLot(home: string): Promise<string> {
  const y = await SiteClient.open("factory-y", { home });
  try {
    const { lots } = await y.get<{ lots: { id: string }[] }>("/api/v1/lots");
    // People open lots too, by names of their own.
    const taken = new Set(lots.map((one) => one.id));
    let number = lots.length + 1;
    while (taken.has(`lot-${number}`)) number++;
    return `lot-${number}`;
  } finally {
    y.close();
  }
}

export async function produceLot(
  home: string,
  lot: string,
  csrs: readonly string[],
  images: number,
): Promise<LotResult> {
  const [y, yStation, z, zStation, technician] = await Promise.all([
    SiteClient.open("factory-y", { home }),
    SiteClient.open("factory-y", { home, role: "station" }),
    SiteClient.open("technician-z", { home }),
    SiteClient.open("technician-z", { home, role: "station" }),
    SiteClient.open("technician-z", { home, role: "technician" }),
  ]);
  try {
    await step(`Factory-Y opens ${lot} with ${csrs.length} slots`, () => openLot(y, lot, csrs.length));
    const built = await withProgress("Factory-Y records what it built", csrs.length, (update) =>
      postCsrs(yStation, { lot, kind: "built", csrs, onProgress: update }),
    );
    await step("Handoff: Factory-Y releases, Technician-Z receives", () => handOver(y, z, lot));

    const held = built.flatMap((result, index) => (result.error ? [] : [{ index, csr: csrs[index]! }]));
    const started = performance.now();
    const signed = await withProgress("Technician-Z certifies: one HSM signature a device", held.length, (update) =>
      postCsrs(zStation, { lot, kind: "certify", csrs: held.map((one) => one.csr), onProgress: update }),
    );
    const signingSeconds = (performance.now() - started) / 1000;
    // A CSR that is there twice is one device.
    const certified = [...new Set(signed.flatMap(({ chain, deviceId }) => (chain && deviceId ? [deviceId] : [])))];

    if (images > 0) await inject(z, lot, Math.min(images, certified.length));
    await withProgress("Technician-Z installs", certified.length, (update) =>
      postInstallations(technician, { lot, deviceIds: certified, place: "Line 1, Hall B", onProgress: update }),
    );
    return {
      lot,
      refused: [...refusals(built, (i) => i), ...refusals(signed, (i) => held[i]!.index)],
      signingSeconds,
      certified: certified.length,
    };
  } finally {
    for (const client of [y, yStation, z, zStation, technician]) client.close();
  }
}

async function openLot(y: SiteClient, lot: string, slots: number): Promise<void> {
  // Set-up fetched one real HEX image: which one depends on where it could be had.
  const image = readMachine().firmware[0];
  const hex = image && IMAGE_LAYOUTS[image.name];
  if (!hex) throw new CountersignError("component-missing", "set-up left no firmware image: run node deploy/setup.mjs");
  const esp = IMAGE_LAYOUTS["esp-secure-cert"]!;
  await y.post("/api/v1/lots", {
    id: lot,
    slots,
    issuer: "technician-z",
    profile: "ldevid",
    // Every other device gets the other image.
    layouts: [
      { format: hex.format, template: basename(image.path), ...hex.layout },
      { format: esp.format, template: ESP_TEMPLATE, ...esp.layout },
    ],
  });
}

async function handOver(y: SiteClient, z: SiteClient, lot: string): Promise<void> {
  const { id } = await y.post<{ id: string }>(`/api/v1/lots/${lot}/handoffs`, { to: z.party });
  await arrived(z, id);
  await z.post(`/api/v1/handoffs/${id}/receive`, { discrepancies: [] });
  await y.poll<{ state: string }>(`/api/v1/handoffs/${id}`, ({ state }) => state === "received" || state === "closed", {
    what: "the receipt of the handoff",
    timeoutMs: 300_000,
  });
}

async function arrived(z: SiteClient, id: string): Promise<void> {
  for (let tries = 0; ; tries++) {
    try {
      const { state } = await z.get<{ state: string }>(`/api/v1/handoffs/${id}`);
      if (state !== "released") return;
    } catch (error) {
      if (!(error instanceof CountersignError) || error.code !== "not-found") throw error;
    }
    if (tries > 1200) throw new CountersignError("timeout", `handoff ${id} hasn't reached ${z.party}`);
    await pause(100);
  }
}

async function inject(z: SiteClient, lot: string, images: number): Promise<void> {
  const progress = startProgress("Chains go into firmware images, each read back", images);
  await z.post(`/api/v1/lots/${lot}/injections`, { limit: images });
  const end = await z.poll<{ state: string; done: number; failed: number }>(
    `/api/v1/lots/${lot}/injections`,
    (answer) => {
      progress.update(answer.done);
      return answer.state === "done";
    },
    { timeoutMs: 600_000, what: "the injection" },
  );
  progress.finish(`${end.done} images${end.failed > 0 ? `, ${end.failed} failed` : ""}`);
}

/** All devices of a lot at its issuer, page by page. */
export async function* lotDevices(home: string, lot: string, issuer = "technician-z"): AsyncGenerator<LotDevice> {
  const z = await SiteClient.open(issuer, { home });
  try {
    for (let after = 0; ;) {
      const { devices } = await z.get<{ devices: LotDevice[] }>(
        `/api/v1/devices?lot=${lot}&afterSlot=${after}&limit=500`,
      );
      yield* devices;
      const last = devices.at(-1);
      if (!last) return;
      after = last.slot;
    }
  } finally {
    z.close();
  }
}

async function withProgress(
  title: string,
  total: number,
  work: (update: (done: number) => void) => Promise<readonly CsrResult[]>,
): Promise<readonly CsrResult[]> {
  const progress = startProgress(title, total);
  const results = await work((done) => progress.update(done));
  const failed = results.filter((result) => result.error).length;
  progress.finish(`${results.length - failed}${failed > 0 ? `, ${failed} refused` : ""}`);
  return results;
}

function refusals(results: readonly CsrResult[], original: (index: number) => number) {
  return results.flatMap((result, i) => (result.error ? [{ index: original(i), ...result.error }] : []));
}
