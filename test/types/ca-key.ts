// Compile-only: `tsc` fails when a line marked @ts-expect-error stops being an error. Nothing here runs.
import type { CaKey, Token } from "../../hsm/index.ts";
import type { Signer } from "../../lib/domain/signing.ts";
import type { LintedCrlTbs } from "../../lib/pki/crl.ts";
import { LintedTbs } from "../../lib/pki/lint.ts";
import type { Tbs } from "../../lib/pki/tbs.ts";

declare const ca: CaKey;
declare const token: Token;
declare const tbs: Tbs;
declare const linted: LintedTbs;
declare const lintedCrl: LintedCrlTbs;

export async function aCaKeySignsOnlyWhatWasLinted(): Promise<void> {
  await ca.signCertificate(linted);
  await ca.signCrl(lintedCrl);

  // @ts-expect-error a TBS that the linter hasn't seen
  await ca.signCertificate(tbs);
  // @ts-expect-error an object of the same shape
  await ca.signCertificate({ bytes: tbs, profile: "root", signatureAlgorithm: "ed25519", issuerKeyId: "" });
  // @ts-expect-error a certificate is no CRL
  await ca.signCrl(linted);
  // @ts-expect-error a CRL is no certificate
  await ca.signCertificate(lintedCrl);
  // @ts-expect-error the linter's product can't be made by hand
  new LintedTbs(tbs);
  // @ts-expect-error a CA key signs no bytes
  await ca.sign(tbs);
  // @ts-expect-error so it is no Signer either
  const signer: Signer = ca;
  // @ts-expect-error and a token gives its sessions to nobody
  void [signer, token.pool];
}
