import { commandAuditSource, type Token } from "../../hsm/index.ts";
import { keyId } from "../../lib/pki/spki.ts";
import type { ReconcileContext } from "../../services/reconcile/context.ts";
import { SignatureAudit } from "../../services/reconcile/signatures.ts";
import { FIRST_CA_LABEL } from "../../store/authority.ts";
import { notedKeys } from "../../store/signature-account.ts";
import type { IssuingProcesses } from "./issuing/issuing-processes.ts";

/**
 * Holds the CA's token's own count of signatures against what this site asked for; nothing before there is a CA key. The
 * count is of all the CA's keys: one that takes another's place is counted with it, under the first one's name.
 */
export function siteSignatureAudit(
  context: ReconcileContext,
  command: readonly string[],
  caToken: Pick<Token, "caKey" | "hasKey" | "health">,
  processes: Pick<IssuingProcesses, "repeats"> | undefined,
): () => ReturnType<SignatureAudit["compare"]> {
  const source = commandAuditSource(command);
  const repeats = (): number => caToken.health().repeats + (processes?.repeats ?? 0);
  let audit: SignatureAudit | undefined;
  return async () => {
    if (audit === undefined) {
      if (!(await caToken.hasKey(FIRST_CA_LABEL))) return undefined;
      const { spki } = await caToken.caKey(FIRST_CA_LABEL);
      const counted = async () => [...new Set([keyId(spki), ...(await notedKeys(context.db))])];
      audit = new SignatureAudit(context, { spki, counted, source, repeats });
    }
    return await audit.compare();
  };
}
