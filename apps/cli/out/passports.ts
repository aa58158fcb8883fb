import { readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { buildPassport, type LedgerIndex, type PassportSource } from "../../../lib/ledger/passport-build.ts";
import { formatPassport } from "../../../lib/ledger/passport-pack.ts";
import type { Certificate } from "../../../lib/pki/certificate.ts";
import type { Policy } from "../../../lib/records/policy.ts";
import { folderFetch } from "../evidence/folder.ts";
import { inParallel } from "./mirror.ts";

export interface PassportRun {
  readonly devices: readonly string[];
  readonly logs: ReadonlyMap<string, LedgerIndex>;
  readonly root: Certificate;
  readonly policy: Policy;
  readonly onPassport?: (done: number) => void;
}

/** Writes `devices/<id>/passport.json` from the copied ledgers. */
export async function writePassports(dir: string, run: PassportRun): Promise<void> {
  const blobs = new Map<string, Promise<Uint8Array | undefined>>();
  // The devices of one batch share a manifest: the last few are kept.
  const blob = (party: string, sha: string): Promise<Uint8Array | undefined> => {
    const key = `${party}/${sha}`;
    let bytes = blobs.get(key);
    if (bytes === undefined) {
      if (blobs.size >= 64) blobs.delete(blobs.keys().next().value!);
      blobs.set(key, (bytes = folderFetch(join(dir, "ledger", party))(`blobs/${sha}`)));
    }
    return bytes;
  };
  const checkpoints = await cosignedCheckpoints(dir, run.logs);
  const source = { logs: run.logs, root: run.root, policy: run.policy, blob, checkpoints };
  let done = 0;
  await inParallel(run.devices, async (device) => {
    const passport = await buildPassport(device, source);
    await writeFile(join(dir, "devices", device, "passport.json"), formatPassport(passport));
    run.onPassport?.(++done);
  });
}

/** The older cosigned checkpoints that lie beside each copied ledger. */
async function cosignedCheckpoints(
  dir: string,
  logs: ReadonlyMap<string, LedgerIndex>,
): Promise<NonNullable<PassportSource["checkpoints"]>> {
  const sizes = new Map<string, number[]>();
  for (const party of logs.keys()) {
    const names = await readdir(join(dir, "ledger", party, "cosigned")).catch(() => []);
    sizes.set(
      party,
      names.map(Number).sort((a, b) => a - b),
    );
  }
  // A batch's devices share their checkpoints.
  const kept = new Map<string, Promise<Uint8Array | undefined>>();
  const read = async (party: string, size: number | undefined): Promise<Uint8Array | undefined> => {
    if (size === undefined) return undefined;
    const key = `${party}/${size}`;
    let note = kept.get(key);
    if (note === undefined) {
      if (kept.size >= 256) kept.delete(kept.keys().next().value!);
      kept.set(key, (note = folderFetch(join(dir, "ledger", party))(`cosigned/${size}`)));
    }
    return note;
  };
  return {
    over: (party, index) =>
      read(
        party,
        sizes.get(party)!.find((size) => size > index),
      ),
    before: (party, index) =>
      read(
        party,
        sizes.get(party)!.findLast((size) => size <= index),
      ),
  };
}
