import type { Outcome } from "../contracts/lots.ts";
import { refusalOf } from "./options.ts";

/** A refusal as a value; anything else goes on failing. */
export async function outcome(work: () => Promise<unknown>): Promise<Outcome> {
  try {
    await work();
    return { ok: true };
  } catch (error) {
    return { ok: false, error: refusalOf(error) };
  }
}
