import type { WorkflowClient } from "@temporalio/client";
import type { Identity } from "../../services/parties/identity.ts";
import type { Inbox } from "../../services/parties/inbox.ts";
import type { WitnessStatus } from "../../services/witness/feed.ts";
import type { WitnessMemory } from "../../services/witness/memory.ts";
import type { Witness } from "../../services/witness/witness.ts";
import type { Db } from "../../store/db.ts";
import type { ComponentState } from "../http/readiness.ts";

/** What the gateway's routes work with; made by the site's composition root. */
export interface GatewayDeps {
  readonly db: Db;
  readonly identity: Identity;
  /** for people: `Factory-Y` */
  readonly name: string;
  readonly role: "manufacturer" | "factory" | "technician";
  /** false where the CA's key is in a ceremony's hands only */
  readonly onlineCa: boolean;
  readonly hubConfigured: boolean;
  readonly inbox: Inbox;
  readonly witness: Pick<Witness, "addCheckpoint">;
  readonly witnessMemory?: WitnessMemory | undefined;
  /** the witnesses of this site's own log */
  readonly witnesses: () => Promise<readonly WitnessStatus[]>;
  /** this site's own Temporal namespace */
  readonly workflows: WorkflowClient;
  /** asks what a ready site needs: database, Temporal, tokens */
  readonly components: () => Promise<readonly ComponentState[]>;
}
