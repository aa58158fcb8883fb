import { commandAuditSource, type Token } from "../../hsm/index.ts";
import type { ReconcileContext } from "../../services/reconcile/context.ts";
import { SignatureAudit } from "../../services/reconcile/signatures.ts";
import type { IssuingProcesses } from "./issuing/issuing-processes.ts";

/** Holds the CA's token's own count of signatures against what this site asked for; nothing before there is a CA key. */
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
      if (!(await caToken.hasKey("ca"))) return undefined;
      const { spki } = await caToken.caKey("ca");
      audit = new SignatureAudit(context, { spki, source, repeats });
    }
    return await audit.compare();
  };
}
