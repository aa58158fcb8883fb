/**
 * Sessions of an HSM tend to come free together, and setting up 64 signatures in one turn of the event loop would hold up
 * everything else in the process. Whoever is about to compute asks here first.
 */

const SLICE_MS = 5;
let began = performance.now();
let turn: Promise<void> | undefined;

/** Goes on at once, or in a later turn of the event loop when this one has computed enough. */
export async function breathe(): Promise<void> {
  while (performance.now() - began > SLICE_MS) {
    turn ??= new Promise((resolve) =>
      setImmediate(() => {
        began = performance.now();
        turn = undefined;
        resolve();
      }),
    );
    await turn;
  }
}
