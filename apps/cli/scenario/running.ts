import { CountersignError } from "../../../lib/domain/errors.ts";
import { Stack } from "../../site/stack/stack.ts";
import { note, paint } from "../output.ts";

/**
 * Runs the stack around `work` and stops it in order afterwards, whatever happens: `work` ends or fails, Ctrl-C or
 * SIGTERM comes (also while the stack is still starting), or a component ends by itself.
 * @param work gets a promise that settles when the stack is asked to stop; what it awaits otherwise is cut off then
 * @throws CountersignError `interrupted` when the stop came before `work` was done with anything but that promise
 */
export async function runStack<T>(
  home: string,
  work: (stack: Stack, stopped: Promise<void>) => Promise<T>,
): Promise<T | undefined> {
  const stop = Promise.withResolvers<void>();
  const starting = new AbortController();
  let asked = false;
  let failure: CountersignError | undefined;
  const ask = (): void => {
    // A second Ctrl-C doesn't hurry: children that are half stopped lose nothing, but leave more to recover.
    if (!asked) note("stopping ...");
    asked = true;
    starting.abort(interrupted());
    stop.resolve();
  };
  process.on("SIGINT", ask);
  process.on("SIGTERM", ask);
  try {
    const stack = await Stack.start({
      home,
      stopped: starting.signal,
      onStep: (what) => note(paint("dim", `starting ${what}`)),
      onFailure(name, logFile) {
        failure ??= new CountersignError("component-unreachable", `${name} has ended by itself; see ${logFile}`);
        ask();
      },
    });
    try {
      if (asked) throw interrupted();
      const running = work(stack, stop.promise);
      // What is cut off may fail later, of the stack's end; that failure is no news.
      running.catch(() => undefined);
      const grace = stop.promise.then(() => new Promise<"cut">((cut) => setTimeout(cut, 200, "cut")));
      const result = await Promise.race([running, grace]);
      if (failure) throw failure;
      if (result === "cut") throw interrupted();
      return result;
    } catch (error) {
      throw failure ?? error;
    } finally {
      await stack.stop();
    }
  } finally {
    process.off("SIGINT", ask);
    process.off("SIGTERM", ask);
  }
}

function interrupted(): CountersignError {
  return new CountersignError(
    "interrupted",
    "interrupted: what was under way is left unfinished, and nothing runs any more",
  );
}
