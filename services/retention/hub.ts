import type { Db } from "../../store/db.ts";
import { dropTelemetry } from "../../store/hub-telemetry.ts";
import type { Pruning } from "./prune.ts";

/** Everything that a hub prunes. */
export function hubPrunings(db: Db, keep: { readonly telemetryDays: number }): Pruning[] {
  return [
    {
      name: "telemetry",
      step: async (rows) => {
        const gone = await dropTelemetry(db, keep.telemetryDays, rows);
        return { gone, more: gone === rows };
      },
    },
  ];
}
