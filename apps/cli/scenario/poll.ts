import { CountersignError } from "../../../lib/domain/errors.ts";

/** Asks again until the answer is there. @throws CountersignError `timeout` */
export async function poll<T>(
  what: string,
  ask: () => Promise<T | undefined | false>,
  timeoutMs = 120_000,
): Promise<T> {
  const deadline = Date.now() + timeoutMs;
  for (let pause = 30; ; pause = Math.min(500, pause * 1.5)) {
    const answer = await ask();
    if (answer !== undefined && answer !== false) return answer;
    if (Date.now() > deadline) throw new CountersignError("timeout", `waited ${timeoutMs / 1000} s for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}
