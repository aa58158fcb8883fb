import { toHex } from "../../domain/bytes.ts";
import { wrong, type AuditState, type PartyState, type Placed } from "./state.ts";

/** A party says that its database was restored and rebuilt: from this very ledger, and to where it had got before. */
export async function onRecovered(at: Placed<"recovered">, party: PartyState, state: AuditState): Promise<void> {
  const { restored, rebuilt } = at.act.fields;
  if (restored.size > rebuilt.size || rebuilt.size > at.index) {
    return wrong(state, at, "act-invalid", "it was rebuilt from more than there was, or restored from more");
  }
  for (const head of [restored, rebuilt]) {
    const root = await state.rootAt?.(party.id, head.size);
    if (root !== undefined && toHex(root) !== head.root) {
      return wrong(state, at, "ledger-invalid", `the ledger had another history when it held ${head.size} entries`);
    }
  }
}
