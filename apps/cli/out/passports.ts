import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { buildPassport, type LedgerIndex } from "../../../lib/ledger/passport-build.ts";
import type { Certificate } from "../../../lib/pki/certificate.ts";
import type { Policy } from "../../../lib/records/policy.ts";
import { folderFetch } from "../evidence/folder.ts";

export interface PassportRun {
  readonly devices: readonly string[];
  readonly logs: ReadonlyMap<string, LedgerIndex>;
  readonly root: Certificate;
  readonly policy: Policy;
  readonly onPassport?: (done: number) => void;
}

/** Writes `devices/<id>/passport.json` from the copied ledgers. */
export async function writePassports(dir: string, run: PassportRun): Promise<void> {
  const blobs = new Map<string, Uint8Array | undefined>();
  // The devices of one batch share a manifest: the last few are kept.
  const blob = async (party: string, sha: string): Promise<Uint8Array | undefined> => {
    const key = `${party}/${sha}`;
    if (!blobs.has(key)) {
      if (blobs.size >= 64) blobs.delete(blobs.keys().next().value!);
      blobs.set(key, await folderFetch(join(dir, "ledger", party))(`blobs/${sha}`));
    }
    return blobs.get(key);
  };
  const source = { logs: run.logs, root: run.root, policy: run.policy, blob };
  for (const [i, device] of run.devices.entries()) {
    const passport = await buildPassport(device, source);
    await writeFile(join(dir, "devices", device, "passport.json"), `${JSON.stringify(passport)}\n`);
    run.onPassport?.(i + 1);
  }
}
