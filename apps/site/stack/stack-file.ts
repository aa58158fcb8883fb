import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { z } from "zod";
import { CountersignError } from "../../../lib/domain/errors.ts";

/** `stack.json`: what runs, where. No secrets; written by `up`, removed by `down`. */
const siteEntry = z.strictObject({
  id: z.string(),
  name: z.string(),
  role: z.string(),
  parent: z.string().nullable(),
  url: z.string(),
  publicUrl: z.string(),
  origin: z.string(),
  vkey: z.string(),
  witnessVkey: z.string(),
  pid: z.int(),
  temporal: z.strictObject({ address: z.string(), pid: z.int() }),
});
export type SiteEntry = z.infer<typeof siteEntry>;

export const stackFile = z.strictObject({
  home: z.string(),
  started: z.string(),
  pid: z.int(),
  postgres: z.strictObject({ port: z.int(), pid: z.int().nullable() }),
  sites: z.array(siteEntry),
  hub: z.strictObject({ name: z.string(), url: z.string(), mqtt: z.string(), ca: z.string(), pid: z.int() }),
});
export type StackFile = z.infer<typeof stackFile>;

export const stackFilePath = (home: string): string => join(home, "stack.json");

/** @throws CountersignError `component-unreachable` when no stack runs from this folder */
export async function readStackFile(home: string): Promise<StackFile> {
  let text: string;
  try {
    text = await readFile(stackFilePath(home), "utf8");
  } catch (cause) {
    throw new CountersignError("component-unreachable", `nothing runs from ${home}: start it with \`countersign up\``, {
      cause,
    });
  }
  const parsed = stackFile.safeParse(JSON.parse(text));
  if (!parsed.success)
    throw new CountersignError(
      "input-invalid",
      `${stackFilePath(home)} is damaged: ${parsed.error.issues[0]?.message ?? ""}`,
    );
  return parsed.data;
}

/** Does a process with this id run (whoever owns it)? */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}
