import { setFlagsFromString } from "node:v8";

/**
 * Keeps V8's young generation at the size that it begins with. Going through a large ledger leaves nothing but short-lived
 * garbage, for which V8 would take 80 to 120 MB more; this way it collects more often, for a twelfth more CPU.
 */
export function keepHeapSmall(): void {
  setFlagsFromString("--semi-space-growth-factor=1");
}
