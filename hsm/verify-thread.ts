import { parentPort, workerData } from "node:worker_threads";
import type { SignatureAlgorithm } from "../lib/domain/signing.ts";
import { readShared } from "./shared-bytes.ts";
import { answerQuestions } from "./thread.ts";
import { nodeVerifyOnce } from "./verify.ts";

/** A thread of verify-together.ts: checks a chunk of signatures, one after the other. */

/** The memory holds key, message and signature of each check. */
export interface Checks {
  readonly algorithms: readonly SignatureAlgorithm[];
  readonly used: number;
}

if (parentPort !== null) {
  const memory = workerData as SharedArrayBuffer;
  answerQuestions<Checks, boolean[]>(parentPort, ({ algorithms, used }) => {
    const parts = readShared(memory, used);
    return algorithms.map((algorithm, i) =>
      nodeVerifyOnce({
        algorithm,
        spki: parts[3 * i]!,
        message: parts[3 * i + 1]!,
        signature: parts[3 * i + 2]!,
      }),
    );
  });
}
