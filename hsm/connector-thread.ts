import { parentPort, workerData } from "node:worker_threads";
import type { CountersignError } from "../lib/domain/errors.ts";
import { ckrOf, hsmError } from "./errors.ts";
import type { Answer, Work, WorkError } from "./connector-protocol.ts";
import { type Pkcs11Module, loadModule } from "./module.ts";
import { answerQuestions } from "./thread.ts";
import { PinRefusedError, closeSession, countKeys, findKey, openSession } from "./token-access.ts";

/** The connector's thread: see connector.ts. It never finalizes the module, which is the whole process's. */

const { path, abandoned } = workerData as { path: string; abandoned: Int32Array };

function perform(module: Pkcs11Module, work: Work): unknown {
  switch (work.op) {
    case "open":
      return openSession(module, work.access);
    case "find":
      return findKey(module, work.access, work.name);
    case "count":
      return countKeys(module, work.access, work.label);
    case "close":
      for (const session of work.sessions) closeSession(module, Buffer.from(session));
      return undefined;
  }
}

/** PKCS#11 handles arrive as plain bytes. */
function revived(work: Work): Work {
  if ("access" in work && work.access.slot !== undefined) {
    const { slot } = work.access;
    return { ...work, access: { ...work.access, slot: { ...slot, slot: Buffer.from(slot.slot) } } };
  }
  return work;
}

function described(thrown: unknown): WorkError {
  const refused = thrown instanceof PinRefusedError ? thrown.refused : undefined;
  const error = thrown instanceof PinRefusedError ? thrown.error : hsmError(thrown, { doing: "reach the token" });
  const { code, message, details, cause }: CountersignError = error;
  const why = ckrOf(cause) ?? (cause instanceof Error ? cause.message : undefined);
  return { code, message, details, cause: why, refused };
}

answerQuestions<Work, Answer>(parentPort!, (work) => {
  // Given up, with everything behind it: nobody waits for the answer any more.
  if (Atomics.load(abandoned, 0) === 1) return undefined;
  try {
    return { value: perform(loadModule(path), revived(work)) };
  } catch (error) {
    return { error: described(error) };
  }
});
