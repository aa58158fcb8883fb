import { parentPort, workerData } from "node:worker_threads";
import { isCountersignError } from "../lib/domain/errors.ts";
import { signatureAlgorithmForKey } from "../lib/pki/algorithms.ts";
import { readShared } from "./shared-bytes.ts";
import {
  type ChunkOrder,
  type ChunkReport,
  DONE,
  JUDGED_BY,
  MAX_MESSAGE_BYTES,
  MAX_SIGNATURE_BYTES,
  SLOT_BYTES,
  SLOW_MS,
  STOP,
  type ThreadData,
} from "./chunk-protocol.ts";
import { loadModule } from "./module.ts";
import { SIGNING_SCHEMES } from "./signing-scheme.ts";
import { answerQuestions } from "./thread.ts";
import { nodeVerify } from "./verify.ts";

/**
 * The thread of a chunk-signer.ts: signs messages one after the other on the session it is given, and verifies each
 * before it counts as done. Calls block here and nowhere else. It never finalizes the module, which is the whole
 * process's.
 */

const { path, messages, signatures, control } = workerData as ThreadData;
const state = new Int32Array(control);
// The longest that a token is handed is a message itself; one of no bytes needs an address as well.
const input = Buffer.alloc(MAX_MESSAGE_BYTES);
const output = Buffer.alloc(2 * MAX_SIGNATURE_BYTES);
const slots = new Uint8Array(signatures);
const lengths = new DataView(signatures);

/** A chunk that takes longer than that comes back as far as it is: its session's lease is for one signature. */
const CHUNK_MS = 50;

answerQuestions<ChunkOrder, ChunkReport>(parentPort!, (order) => {
  const scheme = SIGNING_SCHEMES[order.algorithm];
  const algorithm = signatureAlgorithmForKey(order.algorithm);
  const [session, key] = [Buffer.from(order.session), Buffer.from(order.key)];
  const began = performance.now();
  let done = 0;
  let fastestMs = Infinity;
  try {
    const { api } = loadModule(path);
    for (const message of readShared(messages, order.used)) {
      if (Atomics.load(state, STOP) === 1) break;
      const asked = performance.now();
      const prepared = scheme.prepare(message);
      input.set(prepared);
      api.C_SignInit(session, { mechanism: scheme.mechanism }, key);
      const signature = scheme.finish(api.C_Sign(session, input.subarray(0, prepared.length), output));
      const now = performance.now();
      fastestMs = Math.min(fastestMs, now - asked);
      if (!nodeVerify({ spki: order.spki, algorithm, message, signature })) {
        return { done, failure: "wrong", fastestMs };
      }
      slots.set(signature, done * SLOT_BYTES + 2);
      lengths.setUint16(done * SLOT_BYTES, signature.length);
      Atomics.store(state, DONE, ++done);
      if (now - began > CHUNK_MS || (done >= JUDGED_BY && fastestMs > SLOW_MS)) break;
    }
    return { done, failure: undefined, fastestMs };
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return { done, failure: { message, code: isCountersignError(error) ? error.code : undefined }, fastestMs };
  }
});
