import type { Signer } from "../../lib/domain/signing.ts";
import { loadSiteConfig } from "./config.ts";
import { openConfigured, useSoftHsm } from "./tokens.ts";

/**
 * The image-signing key of a site, in a process that isn't the site's.
 * @param file the site's configuration
 * @throws CountersignError `component-missing` for a site that isn't here, and what its token refuses
 */
export async function withImageKey<T>(file: string, use: (signer: Signer) => Promise<T>): Promise<T> {
  const { hsm } = loadSiteConfig(file);
  useSoftHsm(hsm);
  const token = await openConfigured({ ...hsm, sessions: 1 }, hsm.tokens.site);
  try {
    return await use(await token.imageKey("image"));
  } finally {
    await token.close();
  }
}
