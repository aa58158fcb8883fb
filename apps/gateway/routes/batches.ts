import { z } from "zod";
import { fromBase64 } from "../../../lib/domain/bytes.ts";
import { CountersignError } from "../../../lib/domain/errors.ts";
import { pemDecode } from "../../../lib/pki/pem.ts";
import { deviceId, sha256Hex } from "../../../lib/records/primitives.ts";
import { MAX_BATCH_ITEMS } from "../../../services/intake/manifest.ts";
import { submitCsrs, submitInstallations, type InstallItem } from "../../../services/intake/submit.ts";
import { batchAnswers, type BatchAnswer } from "../../../store/batches.ts";
import { requireClient } from "../../http/client.ts";
import { parseInput, rawBody } from "../../http/input.ts";
import type { HttpsServer } from "../../http/server.ts";
import { parseNdjson } from "../ndjson.ts";
import { chainsPem, lotParams, type LotDeps } from "./lot-deps.ts";

/** 256 CSRs at their limit, as PEM in JSON, with the manifest. */
const BODY_LIMIT = 8 << 20;
const MAX_WAIT_SECONDS = 60;

const header = z.strictObject({ manifest: z.string().max(64 * 1024) });
const opening = z.strictObject({ salt: sha256Hex, value: z.json() });
const installation = z.strictObject({ deviceId, place: opening, time: opening });
const batchParams = z.strictObject({ id: z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/) });
const batchQuery = z.strictObject({ wait: z.coerce.number().min(0).max(MAX_WAIT_SECONDS).default(0) });

/** Batches of stations and technicians, in and their answers out. */
export function registerBatches(app: HttpsServer, deps: LotDeps): void {
  const { db, identity, dispatcher, watch, waitingBatches } = deps;
  const intake = { db, party: identity.party, infrastructure: identity.infrastructure.certificate, waitingBatches };

  app.post(
    "/api/v1/lots/:id/batches",
    { bodyLimit: BODY_LIMIT, onRequest: requireClient("station", "operator") },
    async (request, reply) => {
      const { id: lot } = parseInput(lotParams, request.params, "path");
      const { manifest, items } = readBatch(rawBody(request));
      const batch = await submitCsrs(intake, lot, manifest, items.map(readCsr));
      dispatcher.announce(batch);
      return reply.code(202).send({ batch: batch.id });
    },
  );

  app.post(
    "/api/v1/lots/:id/installations",
    { bodyLimit: BODY_LIMIT, onRequest: requireClient("technician") },
    async (request, reply) => {
      const { id: lot } = parseInput(lotParams, request.params, "path");
      const { manifest, items } = readBatch(rawBody(request));
      const checked = items.map((item, i) => parseInput(installation, item, `line ${i + 2}`) as InstallItem);
      const batch = await submitInstallations(intake, lot, manifest, checked);
      dispatcher.announce(batch);
      return reply.code(202).send({ batch: batch.id });
    },
  );

  const readers = { onRequest: requireClient("station", "technician", "operator") };
  app.get("/api/v1/batches/:id", readers, async (request) => {
    const { id } = parseInput(batchParams, request.params, "path");
    const { wait } = parseInput(batchQuery, request.query, "query");
    await watch.wait(id, wait * 1000);
    const { state, lot, kind, answers } = await batchAnswers(db, id);
    const chainOf = kind === "certify" ? await chainsPem(db) : () => null;
    const results = answers.map((answer) => resultView(answer, chainOf(answer)));
    return { batch: id, lot, kind, state, results };
  });
}

function resultView({ index, deviceId, slot, code, message }: BatchAnswer, chain: string | null) {
  return {
    index,
    ...(deviceId === null ? {} : { deviceId }),
    ...(slot === null ? {} : { slot }),
    ...(chain === null ? {} : { chain }),
    ...(code === null ? {} : { error: { code, message } }),
  };
}

function readBatch(body: Uint8Array): { manifest: Uint8Array; items: unknown[] } {
  const [first, ...items] = parseNdjson(body, MAX_BATCH_ITEMS + 1);
  const { manifest } = parseInput(header, first, "line 1");
  if (items.length === 0) throw new CountersignError("input-invalid", "the batch has no items: one line each");
  try {
    return { manifest: fromBase64(manifest), items };
  } catch (cause) {
    throw new CountersignError("input-invalid", "the manifest is not base64", { cause });
  }
}

// By hand: a schema's pass costs more than the rest of a line.
function readCsr(item: unknown, i: number): Uint8Array {
  const csr = typeof item === "object" && item !== null ? (item as { csr?: unknown }).csr : undefined;
  if (typeof csr !== "string" || csr.length > 32_768 || Object.keys(item as object).length !== 1) {
    throw new CountersignError("input-invalid", `line ${i + 2} is not {"csr": PEM}, the PEM at most 32 KiB long`);
  }
  const blocks = pemDecode(csr, "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST");
  if (blocks.length === 1) return blocks[0]!;
  throw new CountersignError("pem-invalid", `line ${i + 2} holds ${blocks.length} requests where one belongs`);
}
