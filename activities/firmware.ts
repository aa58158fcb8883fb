import { Context } from "@temporalio/activity";
import type { InjectionActivities } from "../contracts/lots.ts";
import type { CustodyContext } from "../services/custody/context.ts";
import { injectNext } from "../services/custody/inject.ts";
import { withFailures } from "./failures.ts";

/** Putting chains into images. */
export function firmwareActivities(context: CustodyContext): InjectionActivities {
  return withFailures({
    injectNext: async ({ run }: { run: string }) => {
      const { state } = await injectNext(context, run, () => Context.current().heartbeat());
      return { finished: state === "done" };
    },
  });
}
