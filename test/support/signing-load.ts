import { randomBytes } from "node:crypto";
import { nodeVerify } from "../../hsm/index.ts";
import { type CountersignError, isCountersignError } from "../../lib/domain/errors.ts";
import type { TokenKey } from "../../hsm/signer.ts";
import type { Signer } from "../../lib/domain/signing.ts";

export interface Tally {
  /** verified signatures */
  signed: number;
  /** typed refusals, by code */
  refused: Record<string, number>;
  errors: CountersignError[];
  /** the slowest answer, ms */
  slowestMs: number;
}

/**
 * Asks for `count` signatures at once, the signers in turn. Every answer is a signature that verifies or a typed error
 * whose message names the token, or this throws.
 */
export async function signAtOnce(signers: readonly Signer[], count: number, token: string): Promise<Tally> {
  const tally: Tally = { signed: 0, refused: {}, errors: [], slowestMs: 0 };
  await Promise.all(
    Array.from({ length: count }, async (_, i) => {
      const { spki, algorithm, ...rest } = pick(signers, i);
      const message = randomBytes(200);
      const since = performance.now();
      try {
        const signature = await rest.sign(message);
        if (!nodeVerify({ spki, algorithm, message, signature })) throw new Error("a wrong signature left the room");
        tally.signed++;
      } catch (error) {
        if (!isCountersignError(error)) throw error;
        if (!/"[^"]+"|module/.test(error.message) || !error.message.includes(token)) {
          throw new Error(`an error that doesn't say which token: ${error.message}`, { cause: error });
        }
        tally.refused[error.code] = (tally.refused[error.code] ?? 0) + 1;
        tally.errors.push(error);
      }
      tally.slowestMs = Math.max(tally.slowestMs, performance.now() - since);
    }),
  );
  return tally;
}

/** A token's key as CA keys use it: what is asked for in one turn is signed together. */
export const together = (key: Signer): Signer => ({
  spki: key.spki,
  algorithm: key.algorithm,
  sign: (message) => (key as TokenKey).signTogether(message),
});

function pick(signers: readonly Signer[], i: number) {
  const signer = signers[i % signers.length]!;
  return { spki: signer.spki, algorithm: signer.algorithm, sign: (message: Uint8Array) => signer.sign(message) };
}

/** Until a signature comes, in the same process. @returns ms it took @throws the last refusal after `withinMs` */
export async function recovered(signers: readonly Signer[], withinMs = 8_000): Promise<number> {
  const since = performance.now();
  for (;;) {
    try {
      for (const signer of signers) await signer.sign(randomBytes(50));
      return performance.now() - since;
    } catch (error) {
      if (performance.now() - since > withinMs) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}
