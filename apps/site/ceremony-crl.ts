import { parseArgs } from "node:util";
import { CountersignError } from "../../lib/domain/errors.ts";
import { parseCrl } from "../../lib/pki/crl.ts";
import { keepCrl } from "../../services/parties/crl.ts";
import { answerAndEnd, holdSitting } from "./root-sitting.ts";

/**
 * The root's next CRL: lists exactly the serial numbers that were reviewed.
 *
 *   node apps/site/ceremony-crl.ts --config .countersign/company-x/root/ceremony.json --days 365 --revoked 3f1c...
 */
await answerAndEnd(async () => {
  const { values } = parseArgs({
    options: {
      config: { type: "string" },
      days: { type: "string" },
      revoked: { type: "string", multiple: true, default: [] },
    },
  });
  const days = Number(values.days);
  if (values.config === undefined || !(days >= 1 && days <= 3660)) {
    throw new CountersignError("usage", "usage: ceremony-crl.ts --config FILE --days N [--revoked SERIAL]...");
  }
  return holdSitting(values.config, async ({ db, root, token }) => {
    const reviewed = new Set(values.revoked.map((serial) => serial.toLowerCase()));
    const crl = await keepCrl(db, await token.caKey("root"), root, { now: new Date(), days, reviewed });
    const { thisUpdate, nextUpdate, revoked: listed } = parseCrl(crl.der);
    return { number: crl.number, thisUpdate, nextUpdate, revoked: [...listed.keys()] };
  });
});
