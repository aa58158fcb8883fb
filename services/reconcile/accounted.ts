import type { CaKey, Token } from "../../hsm/index.ts";
import { keyId } from "../../lib/pki/spki.ts";
import type { Db } from "../../store/db.ts";
import { noteSignatures } from "../../store/signature-account.ts";

/** What CAs' concerns other than device certificates need of a CA's token. */
export type CaToken = Pick<Token, "caKey" | "generateCaKey" | "hasKey">;

/**
 * The token, with every signature of its CA keys noted before it is asked for. For CRLs, requests and CAs' certificates:
 * device certificates are accounted for by their intents, and don't come this way.
 */
export function accountedToken(token: CaToken, db: Db): CaToken {
  return {
    hasKey: (label) => token.hasKey(label),
    caKey: async (label) => accountedKey(await token.caKey(label), db),
    generateCaKey: async (request) => accountedKey(await token.generateCaKey(request), db),
  };
}

function accountedKey(key: CaKey, db: Db): CaKey {
  const id = keyId(key.spki);
  const noted = async <T>(sign: () => Promise<T>): Promise<T> => {
    await noteSignatures(db, id, 1);
    return await sign();
  };
  return {
    spki: key.spki,
    algorithm: key.algorithm,
    label: key.label,
    signCertificate: (linted) => noted(() => key.signCertificate(linted)),
    signCrl: (linted) => noted(() => key.signCrl(linted)),
    signRequest: (subject) => noted(() => key.signRequest(subject)),
  };
}
