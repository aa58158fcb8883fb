import { readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { CountersignError } from "../../lib/domain/errors.ts";
import { sha256Hex } from "../../lib/domain/hash.ts";
import { parseHubProof } from "../../lib/records/hub-proof.ts";
import { signVerification, verificationIntent } from "../../services/hub/verification.ts";
import { answerAndEnd, holdSitting } from "./root-sitting.ts";

/**
 * Signs a hub's codes by the root's key: exactly those of the file that was reviewed, for this root and no other.
 *
 *   node apps/site/ceremony-prove.ts --config .countersign/company-x/root/ceremony.json --codes codes.json
 */
await answerAndEnd(async () => {
  const { values } = parseArgs({ options: { config: { type: "string" }, codes: { type: "string" } } });
  if (values.config === undefined || values.codes === undefined) {
    throw new CountersignError("usage", "usage: ceremony-prove.ts --config FILE --codes FILE");
  }
  const { party, hub, name, caSha256, codes } = parseHubProof(readFileSync(values.codes));
  return holdSitting(values.config, async ({ site, db, root, token }) => {
    if (party !== site.party) {
      throw new CountersignError("input-invalid", `the codes are ${party}'s, this site is ${site.party}`);
    }
    if (caSha256 !== sha256Hex(root.der)) {
      throw new CountersignError("input-invalid", `the codes are for another CA than this root: SHA-256 ${caSha256}`);
    }
    const key = await token.caKey("root");
    for (const { place, code } of codes) {
      const id = verificationIntent(root, code);
      await signVerification(db, key, root, { id, code, request: { hub, place, name }, now: new Date() });
    }
    return { hub, name, signed: codes };
  });
});
