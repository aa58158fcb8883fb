import { fromUtf8, toHex, utf8 } from "../../lib/domain/bytes.ts";
import { signCheckpoint } from "../../lib/ledger/checkpoint.ts";
import type { PassportEntry, PassportEvidence } from "../../lib/ledger/passport-evidence.ts";
import { inclusionProof, leafHash, rootOf } from "../../lib/ledger/tree.ts";
import { PAYLOAD_TYPES, signDsse } from "../../lib/records/dsse.ts";
import { buildStatement, parseEntry, parseStatement, type Act, type AnyAct } from "../../lib/records/statement.ts";
import type { TestWorld } from "./world.ts";

/**
 * The passport as its parties would forge it, who have all their own keys: acts otherwise, each signed again by its party,
 * in ledgers that hold them and whose checkpoints are signed. Acts that name an altered one name the altered one.
 */
export async function forgePassport(
  evidence: PassportEvidence,
  world: TestWorld,
  edit: (act: AnyAct) => AnyAct | undefined,
): Promise<PassportEvidence> {
  const parties = new Map([world.x, world.y, world.z].map((party) => [party.origin, party]));
  const renamed = new Map<string, string>();
  const entries: { origin: string; entry: Uint8Array }[] = [];
  for (const { origin, entry: old } of evidence.acts) {
    const { statement, dsse } = parseEntry(old);
    const text = fromUtf8(statement).replace(/[0-9a-f]{64}/g, (hash) => renamed.get(hash) ?? hash);
    const act = edit(parseStatement(utf8(text)));
    if (act === undefined) continue;
    const bytes = buildStatement(act as Act);
    const party = parties.get(origin)!;
    const same = fromUtf8(bytes) === fromUtf8(statement);
    const signed = () => signDsse(PAYLOAD_TYPES.statement, bytes, party.act, party.act.keyId);
    const entry = same ? old : dsse ? await signed() : bytes;
    renamed.set(toHex(leafHash(old)), toHex(leafHash(entry)));
    entries.push({ origin, entry });
  }
  const leaves = new Map(
    [...parties.keys()].map((log) => [
      log,
      entries.filter(({ origin }) => origin === log).map(({ entry }) => leafHash(entry)),
    ]),
  );
  const placed = new Map<string, number>();
  const acts = entries.map(({ origin, entry }): PassportEntry => {
    const index = placed.get(origin) ?? 0;
    placed.set(origin, index + 1);
    return { origin, index, entry, path: inclusionProof(leaves.get(origin)!, index) };
  });
  const logs = [];
  for (const { origin, party } of evidence.logs) {
    const list = leaves.get(origin)!;
    if (list.length === 0) continue;
    const { signer } = parties.get(origin)!.log;
    const checkpoint = fromUtf8(await signCheckpoint({ origin, size: list.length, root: rootOf(list) }, signer));
    logs.push({ origin, party, checkpoint });
  }
  return { ...evidence, acts, logs };
}
