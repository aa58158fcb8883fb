import { readFileSync } from "node:fs";
import { nodeVerify } from "../../hsm/index.ts";
import { CountersignError } from "../../lib/domain/errors.ts";
import { parseVkey, type NoteKey } from "../../lib/ledger/note.ts";
import { parsePolicy } from "../../lib/ledger/policy.ts";
import { logVkey, witnessVkey, type Identity } from "../../services/parties/identity.ts";
import { WitnessFeed } from "../../services/witness/feed.ts";
import { witnessedLogKeys } from "../../services/witness/logs.ts";
import { WitnessMemory } from "../../services/witness/memory.ts";
import { configuredPolicy, peersPolicy, type SitePolicy } from "../../services/witness/policy.ts";
import { Witness } from "../../services/witness/witness.ts";
import type { Db } from "../../store/db.ts";
import type { Logger } from "../http/logger.ts";
import type { SiteConfig } from "./config.ts";

/** A site's two sides of witnessing: it cosigns others' checkpoints, and gets its own cosigned. */
export interface WitnessSides {
  readonly witness: Witness;
  readonly witnessMemory: WitnessMemory;
  readonly feed: WitnessFeed;
}

/** Whom this site's log asks. @throws CountersignError `component-missing`, `policy-invalid` */
export function sitePolicy(config: SiteConfig, db: Db, identity: Identity): SitePolicy {
  const log = parseVkey(logVkey(identity));
  const { policyFile } = config.witness;
  if (policyFile === undefined) return peersPolicy(db, log);
  const configured = configuredPolicy(read(policyFile), { log, witness: parseVkey(witnessVkey(identity)) });
  return async () => configured;
}

/** @throws CountersignError `component-missing`, `policy-invalid` */
export function witnessSides(
  config: SiteConfig,
  db: Db,
  identity: Identity,
  policy: SitePolicy,
  logger: Logger,
): WitnessSides {
  const log = parseVkey(logVkey(identity));
  const own = parseVkey(witnessVkey(identity));
  const { logsFile, dir } = config.witness;
  const witnessMemory = new WitnessMemory(dir);
  const logs: readonly NoteKey[] = logsFile === undefined ? [] : parsePolicy(read(logsFile)).logs;
  const witness = new Witness({
    db,
    memory: witnessMemory,
    name: own.name,
    signer: identity.witness,
    verify: nodeVerify,
    logKeys: witnessedLogKeys(db, logs),
    onEvidence: (evidence) => logger.error(evidence, "a log signed what contradicts what this witness cosigned"),
  });
  const feed = new WitnessFeed({
    db,
    log,
    verify: nodeVerify,
    policy,
    onFault: (name, error) => logger.warn({ witness: name, err: error }, "a witness doesn't cosign now"),
  });
  return { witness, witnessMemory, feed };
}

function read(file: string): string {
  try {
    return readFileSync(file, "utf8");
  } catch (cause) {
    throw new CountersignError("component-missing", `the witness policy ${file} can't be read`, { cause });
  }
}
