import type { Logger } from "../../http/logger.ts";
import { type SiteTokens, tokenConfig } from "../tokens.ts";
import { IssuingProcesses } from "./issuing-processes.ts";

/**
 * The issuing processes of a site whose configuration asks for some and that has a CA of its own. The site's process
 * has opened the CA's token before: a PIN that is wrong shows there.
 * @throws CountersignError as `openToken`
 */
export async function startIssuing(hsm: SiteTokens, logger: Logger): Promise<IssuingProcesses | undefined> {
  const { processes, sessions, tokens } = hsm;
  if (processes === 0 || tokens.ca === undefined) return undefined;
  return IssuingProcesses.start({
    token: tokenConfig(hsm, tokens.ca),
    processes,
    sessions,
    onFault: (error) => logger.error({ err: error }, "an issuing process had a fault"),
  });
}
