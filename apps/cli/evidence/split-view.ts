import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { SplitView } from "../../../lib/records/split-view.ts";
import { note } from "../output.ts";

/** Both checkpoints and what contradicts, in a file that anybody can check by himself. */
export async function writeSplitView(dir: string, party: string, view: SplitView): Promise<void> {
  await mkdir(dir, { recursive: true });
  const file = join(dir, `split-view-${party}.json`);
  await writeFile(file, `${JSON.stringify(view, null, 2)}\n`);
  note(`${file}: two checkpoints that ${party} signed and no single history has; to check: countersign audit evidence`);
}
