import type { RotationActivities } from "../contracts/parties.ts";
import { refuseUnsent, sendRotation, type RotationContext } from "../services/parties/rotate.ts";
import { withFailures } from "./failures.ts";

/** The party's activities of its CA's change of key, up to the request; what follows is the acceptance's. */
export function rotationActivities(context: RotationContext): RotationActivities {
  return withFailures<RotationActivities>({
    sendRotation: () => sendRotation(context),
    refuseRotation: ({ refusal }) => refuseUnsent(context.db, refusal),
  });
}
