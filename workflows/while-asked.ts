import { setHandler } from "@temporalio/workflow";
import { asked } from "../contracts/parties.ts";

/**
 * Does the work again when it was asked for since it began. An operator may ask while a run is ending with a refusal:
 * the server lets no run end over a signal it hasn't seen, so what is asked for is never lost with it. The work is
 * idempotent.
 */
export async function whileAsked<T>(work: () => Promise<T>): Promise<T> {
  let asks = 0;
  setHandler(asked, () => void asks++);
  for (;;) {
    asks = 0;
    const result = await work();
    if (asks === 0) return result;
  }
}
