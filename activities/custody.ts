import type { HandoffActivities, InstallationActivities, LotActivities } from "../contracts/lots.ts";
import type { CustodyContext } from "../services/custody/context.ts";
import { recordInstallations } from "../services/custody/install.ts";
import { openOwnLot } from "../services/custody/lots.ts";
import { acceptOffer, closeRelease, decideReceipt, recordReceipt, refuseOffer } from "../services/custody/receive.ts";
import { assertLotOrdered, orderedReceipt } from "../services/custody/orders.ts";
import { recordRelease } from "../services/custody/release.ts";
import { lotRequest } from "../services/custody/terms.ts";
import { withFailures } from "./failures.ts";
import { CountersignError } from "../lib/domain/errors.ts";

type CustodyActivities = Pick<LotActivities, "openLot"> &
  HandoffActivities &
  Pick<InstallationActivities, "recordInstallations">;

/** Opening lots, handing devices over, installing them. */
export function custodyActivities(context: CustodyContext): CustodyActivities {
  const activities: CustodyActivities = {
    openLot: async ({ request }) => {
      const checked = lotRequest.safeParse(request);
      if (!checked.success) throw new CountersignError("input-invalid", `the lot's request is not valid`);
      await assertLotOrdered(context.db, checked.data);
      await openOwnLot(context, checked.data);
    },
    recordRelease: async ({ handoff }) => ({ closed: (await recordRelease(context, handoff)) === "closed" }),
    closeRelease: ({ handoff, message }) => closeRelease(context, handoff, message),
    acceptOffer: async ({ handoff }) => ({ received: (await acceptOffer(context, handoff)) === "received" }),
    refuseOffer: ({ handoff, refused }) => refuseOffer(context, handoff, refused),
    decideReceipt: async ({ handoff }) => {
      await decideReceipt(context, handoff, await orderedReceipt(context.db, handoff));
    },
    recordReceipt: ({ handoff }) => recordReceipt(context, handoff),
    recordInstallations: ({ batch }) => recordInstallations(context, batch),
  };
  return withFailures(activities);
}
