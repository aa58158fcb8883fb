import type { Db } from "../../store/db.ts";
import { foldTallies } from "../../store/lots.ts";
import {
  cosignedPage,
  dropCosigned,
  dropUncosigned,
  dropWitnessed,
  emptyBatches,
  emptyInbox,
  emptyOutbox,
  witnessedPage,
} from "../../store/retention.ts";
import type { Pruning } from "./prune.ts";

/** How long a site keeps what nobody needs for good, days; docs/retention.md says why each may go. */
export interface SiteRetention {
  /** what a done batch was made of */
  readonly batchDays: number;
  /** bodies and envelopes that were delivered, or handled */
  readonly messageDays: number;
  /** checkpoints that no quorum cosigned; of the others, each one */
  readonly checkpointDays: number;
  /** of older cosigned checkpoints the last of so many seconds is kept */
  readonly checkpointSeconds: number;
  /** other parties' checkpoints that this site's witness cosigned, each one */
  readonly witnessedDays: number;
  /** of older ones the last of so many seconds is kept */
  readonly witnessedSeconds: number;
}

/** Folded at once, so that there may be as many again. */
const MANY_TALLIES = 5_000;

/** Everything that a site prunes. */
export function sitePrunings(db: Db, keep: SiteRetention): Pruning[] {
  const whole = (name: string, drop: (rows: number) => Promise<number>): Pruning => ({
    name,
    step: async (rows) => {
      const gone = await drop(rows);
      return { gone, more: gone === rows };
    },
  });
  return [
    {
      name: "lot tallies",
      step: async () => {
        const gone = await foldTallies(db);
        return { gone, more: gone > MANY_TALLIES };
      },
    },
    whole("done batches", (rows) => emptyBatches(db, keep.batchDays, rows)),
    whole("delivered messages", (rows) => emptyOutbox(db, keep.messageDays, rows)),
    whole("handled messages", (rows) => emptyInbox(db, keep.messageDays, rows)),
    uncosigned(db, keep.checkpointDays),
    thinned("cosigned checkpoints", keep.checkpointSeconds, {
      page: (after, rows) => cosignedPage(db, keep.checkpointDays, after, rows),
      drop: (rows) =>
        dropCosigned(
          db,
          rows.map(({ size }) => size),
        ),
    }),
    thinned("witnessed checkpoints", keep.witnessedSeconds, {
      // Several logs, each growing at its own end.
      fromStart: true,
      page: (after, rows) => witnessedPage(db, keep.witnessedDays, after, rows),
      drop: (rows) => dropWitnessed(db, rows),
    }),
  ];
}

interface Placed {
  readonly origin: string;
  readonly size: number;
  readonly at: Date;
}

/** From the oldest to the newest, once a process: what was passed is cosigned, and stays. */
function uncosigned(db: Db, days: number): Pruning {
  let after = -1;
  return {
    name: "checkpoints",
    step: async (rows) => {
      const { gone, seen, last } = await dropUncosigned(db, days, after, rows);
      after = last ?? after;
      return { gone, more: seen === rows };
    },
  };
}

/**
 * Goes through a growing list from its beginning to its end, page by page, and keeps the last row of each `seconds`. Where
 * it was is kept in memory: a process that starts anew looks at all of it once more.
 */
function thinned(
  name: string,
  seconds: number,
  list: {
    /** in the order of origin and size, those behind `after` that are old enough */
    page: (after: Pick<Placed, "origin" | "size">, rows: number) => Promise<Placed[]>;
    drop: (rows: readonly Placed[]) => Promise<number>;
    /** begins anew after the end, instead of waiting there for more */
    fromStart?: boolean;
  },
): Pruning {
  const start = { origin: "", size: -1 };
  let after: Pick<Placed, "origin" | "size"> = start;
  const span = ({ origin, at }: Placed): string => `${origin} ${Math.floor(at.getTime() / 1000 / seconds)}`;
  return {
    name,
    step: async (rows) => {
      const page = await list.page(after, rows);
      const due = page.filter((row, i) => i + 1 < page.length && span(row) === span(page[i + 1]!));
      const gone = due.length === 0 ? 0 : await list.drop(due);
      const more = page.length === rows;
      const last = page.at(-1);
      // The last one may have a later one of its span on the next page, or in the next round: it is looked at again.
      if (last !== undefined) after = { origin: last.origin, size: last.size - 1 };
      // A page of one row alone that stays would be read for ever.
      if (page.length === 1 && more) after = last!;
      if (!more && list.fromStart === true) after = start;
      return { gone, more };
    },
  };
}
