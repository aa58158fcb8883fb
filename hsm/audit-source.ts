import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { z } from "zod";
import { CountersignError } from "../lib/domain/errors.ts";

/**
 * What a token itself counts, independently of who asks it to sign: a usage counter of a key, or the number of entries
 * in the vendor's audit log that tell of a signature by it. SoftHSM has neither.
 */
export interface TokenAuditSource {
  /**
   * Signatures by the CA's key since the token began to count them. Never less than at an earlier call, unless the
   * counter was set back.
   * @throws CountersignError `hsm-unavailable`
   */
  signatures(): Promise<number>;
}

const answer = z.object({ signatures: z.int().min(0) });
const TIMEOUT_MS = 30_000;
const MAX_ANSWER_BYTES = 64 * 1024;

/**
 * A source that asks a program, such as a vendor's own tool behind a few lines of script. It prints one JSON object,
 * `{"signatures": N}`, in time, and gets nothing of this process's environment but PATH and HOME.
 */
export function commandAuditSource(command: readonly string[], timeoutMs = TIMEOUT_MS): TokenAuditSource {
  const [program = "", ...args] = command;
  return {
    async signatures() {
      try {
        const { PATH, HOME } = process.env;
        const { stdout } = await promisify(execFile)(program, args, {
          timeout: timeoutMs,
          // One that doesn't listen would leave the counter unwatched for good.
          killSignal: "SIGKILL",
          maxBuffer: MAX_ANSWER_BYTES,
          env: { PATH, HOME },
        });
        return answer.parse(JSON.parse(stdout)).signatures;
      } catch (cause) {
        const why = (cause as Error).message.slice(0, 200);
        const message = `the token's signature counter can't be read through ${program} (${why}): check hsm.audit`;
        throw new CountersignError("hsm-unavailable", message, { cause });
      }
    },
  };
}
