import { realpath, rm } from "node:fs/promises";
import { join, resolve } from "node:path";

/**
 * Removes a state folder, and the database's folder where that had to be put elsewhere (postgres-account.ts) and only a
 * link to it is in the state folder. For states that nobody will come back to; the stack must be stopped.
 */
export async function removeState(home: string): Promise<void> {
  const link = join(home, "postgres");
  const data = await realpath(link).catch(() => undefined);
  if (data !== undefined && data !== resolve(link)) await rm(data, { recursive: true, force: true });
  await rm(home, { recursive: true, force: true });
}
