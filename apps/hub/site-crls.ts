import { z } from "zod";
import { equalBytes } from "../../lib/domain/bytes.ts";
import { parseCertificatesPem } from "../../lib/pki/certificate.ts";
import { validatePath } from "../../lib/pki/path.ts";
import { keyId } from "../../lib/pki/spki.ts";
import { webCryptoVerify } from "../../lib/pki/verify.ts";
import type { Db } from "../../store/db.ts";
import { followSiteCrl } from "../../store/hub-revocations.ts";
import type { Logger } from "../http/logger.ts";
import type { Registry } from "./registry.ts";
import { askSite, type ReportedSite } from "./reporter.ts";

const MAX_CAS = 16;
const casAnswer = z.object({
  cas: z
    .array(z.object({ chain: z.string().max(200_000), crlUrl: z.url({ protocol: /^https?$/ }).max(1000) }))
    .max(MAX_CAS),
});

/**
 * Learns from the sites that this hub reports to whose CRLs it has to follow, so that nobody has to tell it of a new CA. A
 * CA counts only when its chain leads to a registered one; and a site that says it has another site's CA adds a CRL to
 * look at and takes none away, since each is followed under the name that this hub's configuration gives its site.
 */
export function siteCrls(
  db: Db,
  registry: Registry,
  sites: readonly ReportedSite[],
  logger: Logger,
): (stopping: AbortSignal) => Promise<void> {
  async function learn(site: ReportedSite, stopping: AbortSignal): Promise<void> {
    const { cas } = casAnswer.parse(await askSite(site, "GET", "api/v1/ca-certificates", stopping));
    for (const { chain, crlUrl } of cas) {
      const ca = await registeredCa(chain, registry);
      if (ca === undefined) continue;
      const name = `${site.name}.${keyId(ca.spki).slice(0, 16)}`;
      await followSiteCrl(db, { name, url: crlUrl, issuer: ca.der });
    }
  }
  return async (stopping) => {
    await Promise.all(
      sites.map((site) =>
        learn(site, stopping).catch((error: unknown) => {
          if (!stopping.aborted)
            logger.debug({ err: error, site: site.url }, "a site doesn't say what its CAs are yet");
        }),
      ),
    );
  };
}

async function registeredCa(pem: string, { cas }: Registry) {
  const chain = parseCertificatesPem(pem);
  const [ca] = chain;
  if (ca === undefined || ca.basicConstraints?.ca !== true) return undefined;
  if (cas.some(({ certificate }) => equalBytes(certificate.der, ca.der))) return ca;
  const path = await validatePath({
    chain,
    roots: cas.map(({ certificate }) => certificate),
    at: new Date(),
    crls: [],
    partialChain: true,
    verify: webCryptoVerify,
  });
  return path.ok ? ca : undefined;
}
