import { fromUtf8 } from "../../lib/domain/bytes.ts";
import { formatCheckpoint } from "../../lib/ledger/checkpoint.ts";
import { cosign } from "../../lib/ledger/cosignature.ts";
import { ed25519Raw, formatNote, KEY_TYPE, noteKey, signNote } from "../../lib/ledger/note.ts";
import type { PassportEvidence } from "../../lib/ledger/passport-evidence.ts";
import { policyDigest } from "../../lib/ledger/passport.ts";
import { formatPolicy } from "../../lib/ledger/policy.ts";
import { leafHash } from "../../lib/ledger/tree.ts";
import type { Policy } from "../../lib/records/policy.ts";
import { nodeSha256 } from "../../services/ledger/sha256.ts";
import { SparseTree } from "./sparse-tree.ts";
import type { TestParty, TestWorld } from "./world.ts";

const COSIGNED_AT = 1_790_000_000;
const WITNESS = (party: TestParty) => `${party.id}.example/witness`;

/** What pins the world's logs, each cosigned by both other parties. */
export function witnessedPolicy(world: TestWorld): Policy {
  const parties = [world.x, world.y, world.z];
  const keys = parties.map((p) => noteKey(WITNESS(p), KEY_TYPE.cosignature, ed25519Raw(p.witness.spki)));
  const logs = parties.map(({ id, log }, i) => [id, formatPolicy(log.key, keys.toSpliced(i, 1))]);
  return { ...world.policy, logs: Object.fromEntries(logs) };
}

/**
 * The same acts in ledgers of `size` entries: a party's first ones at the beginning, as its keys and grants are, the
 * device's far from each other, and every checkpoint cosigned by both other parties.
 */
export async function enlarge(evidence: PassportEvidence, world: TestWorld, size: number): Promise<PassportEvidence> {
  const acts = [...evidence.acts];
  const logs: PassportEvidence["logs"] = [];
  for (const log of evidence.logs) {
    const party = [world.x, world.y, world.z].find(({ id }) => id === log.party)!;
    const own = acts.flatMap(({ origin }, i) => (origin === log.origin ? [i] : []));
    const place = (n: number) => (n < 4 ? n : Math.floor((size * (n - 3.3)) / (own.length - 3)));
    const leaves = own.map((i, n) => [place(n), leafHash(acts[i]!.entry, nodeSha256)] as const);
    const tree = new SparseTree(size, new Map(leaves));
    for (const [n, i] of own.entries()) acts[i] = { ...acts[i]!, index: place(n), path: tree.proof(place(n)) };
    const last = place(own.length - 1);
    const cosigned = (of: SparseTree, time: number) => signed(party, of, world, time);
    logs.push({
      ...log,
      checkpoint: fromUtf8(await cosigned(tree, COSIGNED_AT + 60)),
      before: fromUtf8(await cosigned(new SparseTree(last, new Map(leaves.slice(0, -1))), COSIGNED_AT)),
    });
  }
  return { ...evidence, acts, logs, policySha256: policyDigest(witnessedPolicy(world)) };
}

async function signed(party: TestParty, tree: SparseTree, world: TestWorld, time: number): Promise<Uint8Array> {
  const text = formatCheckpoint({ origin: party.origin, size: tree.size, root: tree.root() });
  const { signatures } = await signNote(text, party.origin, party.log.signer);
  const others = [world.x, world.y, world.z].filter((other) => other !== party);
  const cosignatures = others.map((other) => cosign(text, WITNESS(other), other.witness, time));
  return formatNote({ text, signatures: [...signatures, ...(await Promise.all(cosignatures))] });
}
